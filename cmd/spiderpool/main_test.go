// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"spidernet.io/spiderpool/internal/testchart"
)

func TestReadEnvironment(t *testing.T) {
	var (
		name string
		port int
		on   bool
	)
	flags := func() *pflag.FlagSet {
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		f.StringVar(&name, "name", "default", "")
		env(f, "name", "NAME")
		f.IntVar(&port, "port", 1, "")
		env(f, "port", "PORT")
		f.BoolVar(&on, "on", false, "")
		env(f, "on", "ON")
		return f
	}
	lookup := func(m map[string]string) func(string) (string, bool) {
		return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
	}
	t.Run("environment, flag, default", func(t *testing.T) {
		f := flags()
		if err := f.Parse([]string{"--port=7"}); err != nil {
			t.Fatal(err)
		}
		if err := readEnvironment(f, lookup(map[string]string{"NAME": "", "PORT": "5", "ON": "true"})); err != nil {
			t.Fatal(err)
		}
		if name != "" || port != 7 || !on {
			t.Errorf("name %q, port %d, on %t; want the empty name, the flag's 7 and true", name, port, on)
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		err := readEnvironment(flags(), lookup(map[string]string{"PORT": "many", "ON": "perhaps"}))
		for _, want := range []string{`environment variable PORT is "many", which is not a value of type int`,
			`environment variable ON is "perhaps", which is not a value of type bool`} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one with %q", err, want)
			}
		}
	})
}

// TestChartSpeaksThisCommand runs, up to the point where work would begin, every container of the
// chart: its arguments are known, and every variable that only we could mean is read by a flag.
func TestChartSpeaksThisCommand(t *testing.T) {
	shared := map[string]bool{"NODE_NAME": true, "POD_NAME": true, "POD_NAMESPACE": true, "MEMORY_LIMIT_BYTES": true,
		"A": true}
	seen := 0
	for _, o := range testchart.Objects(t, "everything.yaml", "DaemonSet", "Deployment", "Pod", "Job") {
		spec := []string{"spec", "template", "spec", "containers"}
		if o.GetKind() == "Pod" {
			spec = []string{"spec", "containers"}
		}
		containers, _, err := unstructured.NestedSlice(o.Object, spec...)
		if err != nil || len(containers) != 1 {
			t.Fatalf("%s %s: %d containers, error %v; want one", o.GetKind(), o.GetName(), len(containers), err)
		}
		container := containers[0].(map[string]any)
		args, _, _ := unstructured.NestedStringSlice(container, "args")
		variables, _, _ := unstructured.NestedSlice(container, "env")
		root := newRoot()
		cmd, rest, err := root.Find(args)
		if err != nil || cmd == root {
			t.Errorf("%s %s: args %v: %v", o.GetKind(), o.GetName(), args, err)
			continue
		}
		if err := cmd.ParseFlags(rest); err != nil {
			t.Errorf("%s %s: args %v: %v", o.GetKind(), o.GetName(), args, err)
		}
		given := map[string]string{}
		for _, v := range variables {
			name := v.(map[string]any)["name"].(string)
			given[name], _ = v.(map[string]any)["value"].(string)
			if !shared[name] && !reads(cmd, name) {
				t.Errorf("%s %s: no flag of %q reads %s", o.GetKind(), o.GetName(), cmd.Name(), name)
			}
		}
		if err := readEnvironment(cmd.Flags(), func(k string) (string, bool) {
			v, ok := given[k]
			return v,
				ok
		}); err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
		seen++
	}
	if seen != 5 {
		t.Errorf("%d workloads, want 5", seen)
	}
}

func reads(cmd *cobra.Command, variable string) bool {
	found := false
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		found = found || len(f.Annotations[environment]) > 0 && f.Annotations[environment][0] == variable
	})
	return found
}

func TestAgentRefusesUnknownPreference(t *testing.T) {
	root := newRoot()
	root.SetArgs([]string{"agent", "--node=n", "--preferred-allocation=random"})
	if err := root.Execute(); err == nil || !strings.Contains(err.Error(),
		`SPIDERPOOL_PREFERRED_ALLOCATION: the preferred allocation is "random"`) {
		t.Errorf("error %v", err)
	}
}

func TestLimitMemoryRefusesNonsense(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	for _, limit := range []string{"1Gi", "-1", "0"} {
		if err := limitMemory(limit); err == nil || !strings.Contains(err.Error(), "MEMORY_LIMIT_BYTES") {
			t.Errorf("limit %q: error %v", limit, err)
		}
	}
	if err := limitMemory(""); err != nil {
		t.Error(err)
	}
}
