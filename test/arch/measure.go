// SPDX-License-Identifier: Apache-2.0

// Package arch measures the sizes of the product's packages, types, interfaces, files and functions,
// and holds them to limits that only become stricter (see limits.json and the test).
// It reads source text only: it must not build, import or know the packages that it measures.
package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// Sizes is what was measured: for each measure, the size of each thing by its name.
type Sizes map[string]map[string]int

// The measures.
const (
	Package   = "package: code lines"
	Type      = "type: methods"
	Interface = "interface: methods"
	File      = "file: lines"
	Function  = "functions: lines of the 99th percentile"
	Line      = "lines: columns of the longest, a tab is 4"
)

// Limits is what each measure may be.
var Limits = map[string]int{Package: 1500, Type: 25, Interface: 5, File: 500, Function: 80, Line: 120}

// whole names the one size of the measures that are taken over the whole tree.
const whole = "all"

// testSupport lists the packages that only tests and benches link. Their interfaces may be wide: the fake
// host's conformance suite, for one, runs against everything that the host can do.
var testSupport = []string{
	"internal/host/hostbench", "internal/host/hosttest", "internal/simapi", "internal/testapi", "internal/testchart",
	"test/",
}

// source is one parsed file of the product.
type source struct {
	dir, name string // the folder below the root, and the file's path below the root
	text      []byte
	syntax    *ast.File
	fset      *token.FileSet
}

// Measure measures the Go files below root, apart from tests, generated files and other modules.
func Measure(root string) (Sizes, error) {
	files, err := read(root)
	if err != nil {
		return nil, err
	}
	sizes := Sizes{Package: {}, Type: {}, Interface: {}, File: {}, Function: {}, Line: {}}
	var functions []int
	for _, f := range files {
		sizes[Package][f.dir] += codeLines(f.text)
		sizes[File][f.name] = strings.Count(string(f.text), "\n")
		sizes[Line][whole] = max(sizes[Line][whole], longestLine(string(f.text)))
		for _, d := range f.syntax.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			functions = append(functions, f.fset.Position(fn.End()).Line-f.fset.Position(fn.Pos()).Line+1)
			if fn.Recv != nil {
				sizes[Type][f.dir+"."+receiver(fn)]++
			}
		}
	}
	sizes[Function][whole] = percentile(functions, 99)
	countInterfaces(files, sizes[Interface])
	return sizes, nil
}

// read parses the files of the module at root.
func read(root string) ([]source, error) {
	var files []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != root && otherTree(p, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parse(root, p)
		if err == nil && !ast.IsGenerated(f.syntax) {
			files = append(files, f)
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("measuring %s: found no Go file: expected the root of the product's module", root)
	}
	return files, err
}

// otherTree reports whether a folder is none of the product's: another module, or what the go
// command ignores.
func otherTree(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil || name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")
}

func parse(root, p string) (source, error) {
	text, err := os.ReadFile(p)
	if err != nil {
		return source{}, err
	}
	name, err := filepath.Rel(root, p)
	if err != nil {
		return source{}, err
	}
	f := source{name: filepath.ToSlash(name), text: text, fset: token.NewFileSet()}
	f.dir = path.Dir(f.name)
	f.syntax, err = parser.ParseFile(f.fset, f.name, text, parser.ParseComments|parser.SkipObjectResolution)
	return f, err
}

// codeLines counts the lines that hold more than comments.
func codeLines(text []byte) int {
	fset := token.NewFileSet()
	file := fset.AddFile("", -1, len(text))
	var s scanner.Scanner
	s.Init(file, text, nil, 0)
	lines := map[int]bool{}
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			return len(lines)
		}
		if tok == token.SEMICOLON && lit == "\n" {
			continue // inserted by the scanner
		}
		first := file.Line(pos)
		for i := range strings.Count(lit, "\n") + 1 { // a raw string has several lines
			lines[first+i] = true
		}
	}
}

// longestLine counts as the linter lll and the formatter golines do: a tab is 4 columns.
func longestLine(text string) int {
	longest := 0
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		longest = max(longest, utf8.RuneCountInString(line)+3*strings.Count(line, "\t"))
	}
	return longest
}

// receiver is the name of a method's type, without its pointer and type parameters.
func receiver(fn *ast.FuncDecl) string {
	expr := fn.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.ParenExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.Name
		default:
			return fmt.Sprintf("%T", e)
		}
	}
}

// percentile is by the nearest rank.
func percentile(values []int, p int) int {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[(len(values)*p+99)/100-1]
}

// countInterfaces counts the methods of named interfaces, those of embedded interfaces of the same
// package included. One that is embedded from elsewhere counts as one method.
func countInterfaces(files []source, sizes map[string]int) {
	interfaces := map[string]*ast.InterfaceType{}
	for _, f := range files {
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if t, ok := spec.Type.(*ast.InterfaceType); ok {
					interfaces[f.dir+"."+spec.Name.Name] = t
				}
			}
			return true
		})
	}
	for name, t := range interfaces {
		dir := name[:strings.LastIndex(name, ".")]
		if !slices.ContainsFunc(testSupport, func(p string) bool { return strings.HasPrefix(dir+"/", p) }) {
			methods := map[string]bool{}
			addMethods(interfaces, dir, t, methods)
			sizes[name] = len(methods)
		}
	}
}

func addMethods(interfaces map[string]*ast.InterfaceType, dir string, t *ast.InterfaceType, methods map[string]bool) {
	for _, field := range t.Methods.List {
		for _, name := range field.Names {
			methods[name.Name] = true
		}
		switch e := field.Type.(type) {
		case *ast.Ident:
			if embedded := interfaces[dir+"."+e.Name]; embedded != nil {
				addMethods(interfaces, dir, embedded, methods)
			} else {
				methods["embedded "+e.Name] = true
			}
		case *ast.SelectorExpr:
			methods[fmt.Sprintf("embedded %v.%s", e.X, e.Sel.Name)] = true
		}
	}
}

// names lists the measures in the order of their texts.
func names() []string { return slices.Sorted(maps.Keys(Limits)) }
