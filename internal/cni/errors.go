// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"spidernet.io/spiderpool/internal/text"
)

// Codes of the CNI specification's error object, and our own from 100 on.
const (
	CodeIncompatibleVersion = types.ErrIncompatibleCNIVersion
	CodeUnknownContainer    = types.ErrUnknownContainer
	CodeInvalidEnv          = types.ErrInvalidEnvironmentVariables
	CodeIO                  = types.ErrIOFailure
	CodeDecode              = types.ErrDecodingFailure
	CodeInvalidConfig       = types.ErrInvalidNetworkConfig
	CodeInvalidNetNS        = types.ErrInvalidNetNS
	CodeTryAgainLater       = types.ErrTryAgainLater
	CodeInternal            = types.ErrInternal
	// CodeFailed: the node or the cluster could not do it; the text says why.
	CodeFailed uint = 100
)

// Error is a refusal or failure as the runtime and the pod's event show it.
type Error struct {
	Code uint
	// Msg says what was tried and what was found.
	Msg string
	// Remedy says what to do; may be empty.
	Remedy string
	// Err is the cause, if another error is.
	Err error
}

// Error is the message and the remedy.
func (e *Error) Error() string {
	if e.Remedy == "" {
		return e.Msg
	}
	return e.Msg + "; " + e.Remedy
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; %w in the format sets the cause.
func Errorf(code uint, remedy, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Msg: err.Error(), Remedy: remedy, Err: errors.Unwrap(err)}
}

// Wire turns any error into the specification's error object. The outermost text is kept, cut to a limit;
// code and remedy are those of the innermost Error that has them.
func Wire(err error) *types.Error {
	out := &types.Error{Code: CodeFailed, Msg: err.Error()}
	var ours *Error
	var theirs *types.Error
	switch {
	case errors.As(err, &ours):
		out.Code, out.Details = ours.Code, ours.Remedy
		if ours.Remedy != "" {
			out.Msg = trimSuffix(out.Msg, "; "+ours.Remedy)
		}
	case errors.As(err, &theirs):
		out.Code, out.Details = theirs.Code, theirs.Details
		if theirs.Details != "" {
			out.Msg = trimSuffix(out.Msg, "; "+theirs.Details)
		}
	}
	out.Msg, out.Details = text.Limit(out.Msg, text.MaxMessage), text.Limit(out.Details, text.MaxMessage)
	// the agent stops, or something took too long
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		out.Code = CodeTryAgainLater
	}
	return out
}

func trimSuffix(s, suffix string) string {
	if len(s) > len(suffix) && s[len(s)-len(suffix):] == suffix {
		return s[:len(s)-len(suffix)]
	}
	return s
}
