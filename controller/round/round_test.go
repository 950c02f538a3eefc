package round

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/runtime"
)

type noted string

func (n *noted) Eventf(_, _ runtime.Object, _, _, _, note string, args ...any) {
	*n = noted(fmt.Sprintf(note, args...))
}

func TestBrief(t *testing.T) {
	for _, text := range []string{"100 % of it", strings.Repeat("x", 1000), strings.Repeat("x", 1024), strings.Repeat("é", 2000)} {
		var n noted
		Brief{&n}.Eventf(nil, nil, "Normal", "Why", "Do", "%s", text)
		got := string(n)
		if len(got) > 1024 || !utf8.ValidString(got) || !strings.HasPrefix(text, strings.TrimSuffix(got, "…")) || len(text) <= 1000 && got != text {
			t.Errorf("%d bytes became %d: %.60q", len(text), len(got), got)
		}
	}
}
