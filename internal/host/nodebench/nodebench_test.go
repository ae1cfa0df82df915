// SPDX-License-Identifier: Apache-2.0

package nodebench

import (
	"context"
	"io"
	"testing"
)

func TestUntilEOF(t *testing.T) {
	r, w := io.Pipe()
	ctx := UntilEOF(context.Background(), r)
	if ctx.Err() != nil {
		t.Error("ended while there is input to come")
	}
	w.Close()
	<-ctx.Done()
}
