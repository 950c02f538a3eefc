package rest

import (
	"bytes"
	"flag"
	"net/http"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write openapi.json")

// TestDocument: the committed document is what is served. go test ./controller/rest -run TestDocument -update writes it.
func TestDocument(t *testing.T) {
	served := (&api{}).register(http.NewServeMux())
	if *update {
		if err := os.WriteFile("openapi.json", served, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	committed, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(committed, served) {
		t.Errorf("openapi.json is stale; run make generate. -committed +served\n%s", cmp.Diff(string(committed), string(served)))
	}
}
