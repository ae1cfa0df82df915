// SPDX-License-Identifier: Apache-2.0

package test

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	gopkg "golang.org/x/tools/go/packages"

	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/nad"
)

var update = flag.Bool("update", false, "write docs/compatibility-fields.md")

const fieldsDoc = "../docs/compatibility-fields.md"

// TestFields shows that a field of the API, an annotation or a key that is accepted does something,
// or is answered: a field that no code reads, apart from its own validation, must be in the list of
// those that are refused or warned of, and a field of that list must exist. Of what is written for
// users, a status field must be set by some code. The test also writes the page for users.
//
// To add a field: add it to the API, and read it. If nothing is to read it, refuse it or warn of it
// at admission, and give it a line in unread.
func TestFields(t *testing.T) {
	program := loadProgram(t)
	all, problems := judgeFields(program, program.apiFields(t))
	for _, problem := range problems {
		t.Error(problem)
	}
	page := renderFields(all, program.confKeys(t))
	if *update {
		if err := os.WriteFile(fieldsDoc, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(fieldsDoc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(page, string(got)); diff != "" {
		t.Errorf("%s is not what the code says; run this test with -update:\n%s", fieldsDoc, diff)
	}
}

// A field that somebody adds and forgets to read is found, also when its validation reads it.
func TestForgottenFieldIsFound(t *testing.T) {
	plant := map[string]string{ // file -> what is put behind which text
		"../api/sriovnetwork/v1/policy_types.go": "type SriovNetworkNodePolicySpec struct {|" +
			"\n\tPlanted string `json:\"planted,omitempty\"`\n",
		"../api/sriovnetwork/v1/policy_validation.go": "func (s *SriovNetworkNodePolicySpec) validateDevice(" +
			"spec *field.Path) (errs field.ErrorList) {|\n\t_ = s.Planted\n",
	}
	overlay := map[string][]byte{}
	for name, what := range plant {
		path, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		behind, planted, _ := strings.Cut(what, "|")
		changed := strings.Replace(string(text), behind, behind+planted, 1)
		if changed == string(text) {
			t.Fatalf("%s has no %q", name, behind)
		}
		overlay[path] = []byte(changed)
	}
	program := load(t, overlay)
	_, problems := judgeFields(program, program.apiFields(t))
	const want = "SriovNetworkNodePolicy.spec.planted is read by nothing but its validation"
	if len(problems) != 1 || !strings.HasPrefix(problems[0], want) {
		t.Errorf("with a field that only its validation reads, found %q, expected one that begins with %q",
			problems, want)
	}
}

// judgeFields gives each field its answer, and says what is wrong with fields and lists.
func judgeFields(program *program, all []field) (answered []field, problems []string) {
	complain := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	seen := map[string]bool{}
	for i := range all {
		f := &all[i]
		seen[f.path] = true
		a, listed := unread[f.path]
		part, inPart := readInPart[f.path]
		passed := passedOn[f.path]
		// What users or other parts of the product ask for must be read; a status is there for users to read.
		used := program.read[f.key] || isStatus(f.path) && program.written[f.key]
		switch {
		case listed:
			f.answer = a
		case passed != "" && passed != asJSON && !program.calls[passed]:
			complain("%s is read by %s, which nothing calls", f.path, passed)
		case inPart && used:
			f.answer = part
		case passed != "" || used:
			f.answer = answer{implemented, firstSentence(f.doc)}
		default:
			complain(
				"%s is read by nothing but its validation, or set by nothing if it is a status: implement it, or "+
					"refuse it or warn of it and list it in unread", f.path)
		}
	}
	lists := slices.Concat(slices.Collect(maps.Keys(unread)), slices.Collect(maps.Keys(readInPart)),
		slices.Collect(maps.Keys(passedOn)))
	slices.Sort(lists)
	for i, path := range lists {
		if !seen[path] {
			complain("%s is listed and no field of the API", path)
		}
		if i > 0 && lists[i-1] == path {
			complain("%s is listed twice", path)
		}
	}
	return all, problems
}

// What the controllers write into a network's configuration is read by the plugin that it is for: a
// key that is rendered and then ignored is as bad as a field that is.
func TestRenderedKeysAreRead(t *testing.T) {
	program := loadProgram(t)
	byLibrary := []string{"type", "ipam", "capabilities", "cniVersion", "name"} // the CNI library and the runner
	for _, pair := range []struct{ rendered, read string }{
		{"internal/nad.ibSriovConf", "internal/cni/ibsriov.conf"},
		{"internal/nad.ibNetworkConf", "internal/cni/ibsriov.conf"},
		{"internal/nad.ipoibConf", "internal/cni/ipoib.conf"},
		{"internal/nad.ipamConf", "internal/cni/spiderpool.conf.IPAM"},
		{"internal/nad.coordinatorConf", "api/spiderpool/v2beta1.CoordinatorSpec"},
	} {
		read := program.keysOf(t, pair.read)
		for key := range program.keysOf(t, pair.rendered) {
			if _, ok := read[key]; !ok && read[strings.Replace(key, "Nic", "NIC", 1)] == "" &&
				!slices.Contains(byLibrary, key) {
				t.Errorf("%s writes %q, which %s does not read", pair.rendered, key, pair.read)
			}
		}
	}
}

// Every annotation of the page is one that product code knows, and every one that the code answers
// is on the page.
func TestAnnotations(t *testing.T) {
	program := loadProgram(t)
	listed := map[string]answer{}
	for _, a := range annotations {
		listed[a.name] = a.answer
		if !program.literals[a.name] && a.status != refusedByAPI {
			t.Errorf("annotation %s: no product code has it", a.name)
		}
	}
	for name := range ipam.IgnoredAnnotations {
		if listed[name].status != warned {
			t.Errorf("annotation %s is answered with an event and not listed as %s", name, warned)
		}
	}
	for literal := range program.literals {
		for _, prefix := range []string{"ipam.spidernet.io/", "cni.spidernet.io/", "multus.spidernet.io/",
			"v1.multus-cni.io/", "k8s.v1.cni.cncf.io/", "sriovnetwork.openshift.io/"} {
			if _, ok := listed[literal]; strings.HasPrefix(literal, prefix) && literal != prefix && !ok &&
				!labels[literal] && !strings.ContainsAny(literal, " %") {
				t.Errorf("annotation %s of the code is not listed", literal)
			}
		}
	}
}

// field is a field of a kind.
type field struct {
	path string // such as SpiderIPPool.spec.ips
	key  string // see keyOf
	doc  string
	answer
}

// program is the product's code, with types.
type program struct {
	byPath   map[string]*gopkg.Package
	read     map[string]bool // fields by key
	written  map[string]bool // fields by key: in an assignment or a literal
	calls    map[string]bool // functions and methods of api that other packages use, by name
	literals map[string]bool // texts in the code
}

var loaded *program

func loadProgram(t *testing.T) *program {
	t.Helper()
	if loaded == nil {
		loaded = load(t, nil)
	}
	return loaded
}

// load reads the product's code; overlay replaces files, by their absolute paths.
func load(t *testing.T, overlay map[string][]byte) *program {
	t.Helper()
	mode := gopkg.NeedName | gopkg.NeedFiles | gopkg.NeedCompiledGoFiles | gopkg.NeedImports |
		gopkg.NeedTypes | gopkg.NeedSyntax | gopkg.NeedTypesInfo | gopkg.NeedExportFile
	all, err := gopkg.Load(&gopkg.Config{Mode: mode, Dir: "..", Overlay: overlay}, "./api/...", "./internal/...",
		"./cmd/...")
	if err != nil {
		t.Fatalf("load the product's packages: %v", err)
	}
	p := &program{byPath: map[string]*gopkg.Package{}, read: map[string]bool{}, written: map[string]bool{},
		calls: map[string]bool{}, literals: map[string]bool{}}
	for _, pkg := range all {
		for _, e := range pkg.Errors {
			t.Fatalf("load %s: %v", pkg.PkgPath, e)
		}
		p.byPath[strings.TrimPrefix(pkg.PkgPath, module)] = pkg
		for _, file := range pkg.Syntax {
			if isProduct(pkg, file) {
				p.readFile(pkg, file)
			}
		}
	}
	return p
}

// isProduct leaves out generated code, what only judges or completes objects, and packages for tests.
func isProduct(pkg *gopkg.Package, file *ast.File) bool {
	name := filepath.Base(pkg.Fset.Position(file.Package).Filename)
	switch {
	case strings.HasPrefix(name, "zz_generated"), strings.HasSuffix(name, "_validation.go"), strings.HasSuffix(name,
		"_defaults.go"),
		strings.HasPrefix(name, "webhook"), strings.HasPrefix(name, "warnings"):
		return false
	}
	last := pkg.PkgPath[strings.LastIndex(pkg.PkgPath, "/")+1:]
	return !strings.HasSuffix(last, "test") && !strings.HasSuffix(last, "bench") && last != "simapi" &&
		last != "testapi" && last != "testchart"
}

func (p *program) readFile(pkg *gopkg.Package, file *ast.File) {
	written := map[*ast.SelectorExpr]bool{} // what is assigned to; Inspect comes to the statement first
	use := func(o types.Object, where map[string]bool) {
		if v, ok := o.(*types.Var); ok && v.IsField() {
			where[keyOf(pkg.Fset, v)] = true
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, left := range n.Lhs {
				if index, ok := left.(*ast.IndexExpr); ok {
					left = index.X
				}
				if selector, ok := left.(*ast.SelectorExpr); ok {
					written[selector] = true
				}
			}
		case *ast.Ident:
			if f, ok := pkg.TypesInfo.Uses[n].(*types.Func); ok && f.Pkg() != nil && f.Pkg() != pkg.Types {
				p.calls[strings.ReplaceAll(f.FullName(), module, "")] = true
			}
		case *ast.SelectorExpr:
			if s := pkg.TypesInfo.Selections[n]; s != nil && written[n] {
				use(s.Obj(), p.written)
			} else if s != nil {
				use(s.Obj(), p.read)
			}
		case *ast.KeyValueExpr:
			if id, ok := n.Key.(*ast.Ident); ok {
				use(pkg.TypesInfo.Uses[id], p.written)
			}
		case *ast.BasicLit:
			if n.Kind == token.STRING {
				p.literals[strings.Trim(n.Value, "`\"")] = true
			}
		}
		return true
	})
}

// keyOf names a field wherever its package's types come from, source or compiled.
func keyOf(fset *token.FileSet, v *types.Var) string {
	at := fset.Position(v.Pos())
	return fmt.Sprintf("%s/%s:%d %s", v.Pkg().Path(), filepath.Base(at.Filename), at.Line, v.Name())
}

// apiFields lists the fields of spec and status of every kind, and of the elements of a pod's annotations.
func (p *program) apiFields(t *testing.T) []field {
	t.Helper()
	var out []field
	for _, path := range []string{"api/spiderpool/v2beta1", "api/sriovnetwork/v1", "api/cncf/v1"} {
		pkg := p.byPath[path]
		if pkg == nil {
			t.Fatalf("package %s is not there", path)
		}
		docs := docsOf(pkg)
		for _, name := range pkg.Types.Scope().Names() {
			s, isStruct := structOf(pkg.Types.Scope().Lookup(name))
			if !isStruct {
				continue
			}
			switch kind := isKind(s); {
			case kind:
				out = append(out, fieldsOf(pkg, docs, name, s, nil)...)
			case name == "NetworkSelectionElement":
				out = append(out, fieldsOf(pkg, docs, name, s, nil)...)
			}
		}
	}
	if len(out) < 100 {
		t.Fatalf("found %d fields of the API: they are not read right", len(out))
	}
	slices.SortStableFunc(out, func(a, b field) int { return cmp.Compare(kindOf(a.path), kindOf(b.path)) })
	return out
}

func isStatus(path string) bool {
	_, path, _ = strings.Cut(path, ".")
	return strings.HasPrefix(path, "status.")
}

func kindOf(path string) string { kind, _, _ := strings.Cut(path, "."); return kind }

func structOf(o types.Object) (*types.Struct, bool) {
	name, ok := o.(*types.TypeName)
	if !ok || name.IsAlias() {
		return nil, false
	}
	s, ok := name.Type().Underlying().(*types.Struct)
	return s, ok
}

// isKind reports whether a struct is an API object, and no list of them.
func isKind(s *types.Struct) bool {
	for i := range s.NumFields() {
		if f := s.Field(i); f.Embedded() && f.Name() == "ObjectMeta" {
			return true
		}
	}
	return false
}

func fieldsOf(pkg *gopkg.Package, docs map[string]string, path string, s *types.Struct, within []types.Type) []field {
	var out []field
	for i := range s.NumFields() {
		v := s.Field(i)
		name, _, _ := strings.Cut(reflect.StructTag(s.Tag(i)).Get("json"), ",")
		if v.Embedded() || name == "" || name == "-" {
			continue
		}
		inner, list := elem(v.Type())
		f := field{path: path + "." + name + list, key: keyOf(pkg.Fset, v), doc: docs[keyOf(pkg.Fset, v)]}
		named, ok := inner.(*types.Named)
		deeper, isStruct := inner.Underlying().(*types.Struct)
		if !(name == "spec" || name == "status") {
			out = append(out, f)
		}
		if ok && isStruct && named.Obj().Pkg() == pkg.Types && !slices.Contains(within, inner) {
			out = append(out, fieldsOf(pkg, docs, f.path, deeper, append(slices.Clone(within), inner))...)
		}
	}
	return out
}

// elem takes pointers and lists off a type; list is "[]" for lists.
func elem(t types.Type) (inner types.Type, list string) {
	for {
		switch u := types.Unalias(t).(type) {
		case *types.Pointer:
			t = u.Elem()
			continue
		case *types.Slice:
			t, list = u.Elem(), "[]"
			continue
		case *types.Named:
			if s, ok := u.Underlying().(*types.Slice); ok {
				t, list = s.Elem(), "[]"
				continue
			}
		}
		return types.Unalias(t), list
	}
}

// docsOf are the comments of the fields of a package.
func docsOf(pkg *gopkg.Package) map[string]string {
	docs := map[string]string{}
	for _, file := range pkg.Syntax {
		ast.Inspect(file, func(n ast.Node) bool {
			if f, ok := n.(*ast.Field); ok && f.Doc != nil {
				for _, id := range f.Names {
					if v, ok := pkg.TypesInfo.Defs[id].(*types.Var); ok {
						docs[keyOf(pkg.Fset, v)] = f.Doc.Text()
					}
				}
			}
			return true
		})
	}
	return docs
}

// firstSentence is what a comment says first, without the marks for generators.
func firstSentence(doc string) string {
	var lines []string
	for line := range strings.Lines(doc) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "+") {
			lines = append(lines, line)
		}
	}
	text := strings.Join(lines, " ")
	if i := strings.Index(text, ". "); i >= 0 {
		text = text[:i]
	}
	return strings.TrimSuffix(text, ".")
}

// keysOf are the JSON keys of a struct, "package.type" or "package.type.field", and the fields' keys.
func (p *program) keysOf(t *testing.T, of string) map[string]string {
	t.Helper()
	at := strings.LastIndex(of, "/")
	parts := strings.Split(of[at+1:], ".")
	pkg := p.byPath[of[:at+1]+parts[0]]
	if pkg == nil {
		t.Fatalf("%s: there is no such package", of)
	}
	s, ok := structOf(pkg.Types.Scope().Lookup(parts[1]))
	if !ok {
		t.Fatalf("%s: there is no such struct", of)
	}
	for _, name := range parts[2:] {
		var found *types.Struct
		for i := range s.NumFields() {
			if s.Field(i).Name() == name {
				found, _ = s.Field(i).Type().Underlying().(*types.Struct)
			}
		}
		if s = found; s == nil {
			t.Fatalf("%s: there is no such field", of)
		}
	}
	keys := map[string]string{}
	for i := range s.NumFields() {
		v := s.Field(i)
		if deeper, ok := v.Type().Underlying().(*types.Struct); ok && v.Embedded() {
			for j := range deeper.NumFields() {
				if name, _, _ := strings.Cut(reflect.StructTag(deeper.Tag(j)).Get("json"), ","); name != "" {
					keys[name] = keyOf(pkg.Fset, deeper.Field(j))
				}
			}
		}
		if name, _, _ := strings.Cut(reflect.StructTag(s.Tag(i)).Get("json"), ","); name != "" && name != "-" {
			keys[name] = keyOf(pkg.Fset, v)
		}
	}
	return keys
}

// confKeys are the keys that our plugins know, and that each of them is read.
func (p *program) confKeys(t *testing.T) []row {
	t.Helper()
	var rows []row
	for _, plugin := range []struct{ name, conf string }{
		{"coordinator", "api/spiderpool/v2beta1.CoordinatorSpec"}, {"ib-sriov", "internal/cni/ibsriov.conf"},
		{"ipoib", "internal/cni/ipoib.conf"},
		{"rdma", "internal/cni/rdma.conf"}, {"spiderpool (ipam)", "internal/cni/spiderpool.conf.IPAM"},
	} {
		known := p.keysOf(t, plugin.conf)
		for _, key := range slices.Sorted(maps.Keys(known)) {
			a, ok := answeredKeys[plugin.name+"."+key]
			switch {
			case ok:
			case p.read[known[key]]:
				a = answer{implemented, ""}
			default:
				t.Errorf("key %q of plugin %s is parsed and read by nothing", key, plugin.name)
			}
			rows = append(rows, row{plugin.name, key, a})
		}
		kind, _, _ := strings.Cut(plugin.name, " ")
		for _, key := range slices.Sorted(maps.Keys(nad.IgnoredKeys[kind])) {
			rows = append(rows,
				row{plugin.name, key, answer{warned, "event AnnotationIgnored at the pod: " +
					nad.IgnoredKeys[kind][key]}})
		}
	}
	return rows
}

func renderFields(all []field, keys []row) string {
	var b strings.Builder
	b.WriteString("# Fields, annotations and keys\n\n" +
		"What happens with every field, annotation and key that users of Spiderpool, Multus and " +
		"sriov-network-operator know. `go test ./test -run TestFields -update`\n" +
		"writes this page from the code: *implemented* means that code reads the field (or, in a status, sets it), " +
		"which the test proves; *refused* means an error at\n" +
		"admission or, for pods and NetworkAttachmentDefinitions, a failed ADD with an event; *warned* means a " +
		"warning of `kubectl`, an event or a condition.\n" +
		"An empty text or a zero that upstream's webhooks write by themselves is the same as an absent field.\n\n" +
		"A field that is not on this page is not in the schema: the API server refuses it (`kubectl`) or warns of " +
		"it and drops it (other clients).\n")
	kind := ""
	for _, f := range all {
		if k := kindOf(f.path); k != kind {
			kind = k
			fmt.Fprintf(&b, "\n## %s\n\n| Field | Status | What happens |\n|---|---|---|\n", kind)
		}
		_, path, _ := strings.Cut(f.path, ".")
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", path, f.status, cell(f.what))
	}
	b.WriteString("\n## Kinds that are not here\n\n| Kind | Status | What happens |\n|---|---|---|\n")
	for _, k := range absentKinds {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.name, k.status, cell(k.what))
	}
	b.WriteString("\n## Annotations\n\n| On | Annotation | Status | What happens |\n|---|---|---|---|\n")
	for _, a := range annotations {
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s |\n", a.on, a.name, a.status, cell(a.what))
	}
	b.WriteString("\n## Keys of plugins' configurations\n\n" +
		"Keys that no plugin of ours knows are left alone: the runtime, the CNI library and other products add " +
		"their own to every configuration, so an unknown\n" +
		"key is no sign of a mistake. Keys that would isolate a pod, such as `pkey`, are refused. Plugins of others " +
		"(`macvlan`, `sriov`, `tuning`, …) get\n" +
		"their configuration unchanged.\n\n| Plugin | Key | Status | What happens |\n|---|---|---|---|\n")
	for _, k := range keys {
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s |\n", k.on, k.name, k.status, cell(k.what))
	}
	return b.String()
}

func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }
