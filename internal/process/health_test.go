// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealth(t *testing.T) {
	broken := &Health{}
	broken.Require("webhook", func() error { return errors.New("no certificate yet") })
	broken.Require("cache", func() error { return nil })
	tests := map[string]struct {
		health   *Health
		path     string
		wantCode int
		wantBody string
	}{
		"nothing required": {&Health{}, "/v1/runtime/readiness", http.StatusOK, "ok"},
		"not ready": {broken, "/v1/runtime/readiness", http.StatusServiceUnavailable,
			"webhook: no certificate yet"},
		"not started": {broken, "/v1/runtime/startup", http.StatusServiceUnavailable, "webhook: no certificate yet"},
		"alive":       {broken, "/v1/runtime/liveness", http.StatusOK, "ok"},
		"elsewhere":   {broken, "/v1/runtime/", http.StatusNotFound, "not found"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			answer := httptest.NewRecorder()
			tt.health.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, tt.path, nil))
			if answer.Code != tt.wantCode || !strings.Contains(answer.Body.String(), tt.wantBody) {
				t.Errorf("%d %q, want %d with %q", answer.Code, answer.Body, tt.wantCode, tt.wantBody)
			}
		})
	}
}
