// SPDX-License-Identifier: Apache-2.0

// Package api is the root of the API groups; it owns the generation of their deep copies and CRDs.
package api

//go:generate go tool controller-gen object:headerFile=boilerplate.go.txt paths=./... crd:maxDescLen=400 output:crd:dir=../config/crd
