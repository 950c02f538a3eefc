package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLinks: each relative link leads to a file, and each anchor to a heading of it.
func TestLinks(t *testing.T) {
	for _, page := range pages {
		for _, target := range all(regexp.MustCompile(`\]\(([^)]+)\)`), withoutCode(read(t, page))) {
			if strings.Contains(target, "://") {
				continue
			}
			path, anchor, _ := strings.Cut(target, "#")
			to := page
			if path != "" {
				to = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: link %s: %v", page, target, err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(read(t, to)), anchor) {
				t.Errorf("%s: link %s: no such heading", page, target)
			}
		}
	}
}

// anchors of the headings, as GitHub makes them.
func anchors(text string) (out []string) {
	for _, h := range all(regexp.MustCompile(`(?m)^#+ (.*)$`), withoutCode(text)) {
		h = regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(h), "")
		out = append(out, strings.ReplaceAll(h, " ", "-"))
	}
	return out
}

func withoutCode(text string) string {
	return regexp.MustCompile("(?sm)^```.*?^```").ReplaceAllString(text, "")
}

// section of a page: from its heading to the next of the same or a higher rank.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	rank := 0
	var b strings.Builder
	for line := range strings.Lines(read(t, page)) {
		if hashes, text, ok := strings.Cut(strings.TrimSpace(line), " "); ok && hashes != "" && strings.Trim(hashes, "#") == "" {
			switch {
			case rank == 0 && text == heading:
				rank = len(hashes)
			case rank > 0 && len(hashes) <= rank:
				return b.String()
			}
		}
		if rank > 0 {
			b.WriteString(line)
		}
	}
	if rank == 0 {
		t.Fatalf("%s has no section %q", page, heading)
	}
	return b.String()
}

// table gives the cells of all rows of the tables in a text.
func table(text string) (rows [][]string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if regexp.MustCompile(`^[a-z ]*$`).MatchString(strings.Join(cells, "")) {
			continue // head
		}
		rows = append(rows, cells)
	}
	return rows
}

// all matches, of the first group if there is one.
func all(re *regexp.Regexp, text string) (out []string) {
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		out = append(out, m[len(m)-1])
	}
	return out
}

// same compares two sets of names.
func same(t *testing.T, what string, code, page []string) {
	t.Helper()
	clean := func(list []string) []string {
		list = slices.Sorted(slices.Values(list))
		return slices.Compact(list)
	}
	if len(code) == 0 {
		t.Errorf("%s: nothing found in the code", what)
	}
	if diff := cmp.Diff(clean(code), clean(page)); diff != "" {
		t.Errorf("%s: -code +page\n%s", what, diff)
	}
}

func read(t *testing.T, page string) string {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// source is the text of all Go files below, tests left out.
func source(t *testing.T, dirs ...string) string {
	t.Helper()
	return goFiles(t, false, dirs...)
}

func goFiles(t *testing.T, tests bool, dirs ...string) string {
	t.Helper()
	var b strings.Builder
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() != ".." && strings.HasPrefix(d.Name(), "."):
				return fs.SkipDir
			case d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") != tests:
				return nil
			}
			text, err := os.ReadFile(path)
			b.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}
