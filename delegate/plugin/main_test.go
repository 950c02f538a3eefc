package plugin

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// panicking is set in the environment of a test process that shall be a plugin with a bug.
const panicking = "BERTH_TEST_PANICKING_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(panicking) != "" {
		bug := func(*call) ([]byte, *failure) { panic("a bug") }
		os.Exit(run("", func(string) (verb, string) { return bug, "" }))
	}
	os.Exit(m.Run())
}

// TestPanic runs this test binary as a plugin with a bug.
func TestPanic(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
		cmd := exec.Command(self)
		cmd.Env = []string{panicking + "=1", "CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=/x", "CNI_IFNAME=eth0", "CNI_PATH=/x"}
		cmd.Stdin = strings.NewReader(`{"cniVersion":"1.1.0","name":"x"}`)
		out, err := cmd.Output()
		var got struct {
			Code         uint
			Msg, Details string
		}
		if jsonErr := json.Unmarshal(out, &got); jsonErr != nil || err == nil || got.Code != codeInternal ||
			!strings.Contains(got.Msg, "panic: a bug") || !strings.Contains(got.Details, "goroutine") {
			t.Errorf("%s: %v, %s", command, err, out)
		}
	}
}

// FuzzJSON compares with encoding/json.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		"", "{}", " { } ", `{"a":1,"a":[true,false,null,-0.5e+3,"x"]}`, `{"name":"a\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00\ud83d\u0041x"}`, `[]`, `{"a":}`,
		`{"a" 1}`, `{"a":1,}`, `{"a":01}`, `{"a":1.}`, `{"a":"` + "\n" + `"}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{} {}`, `{"a":tru}`, `{"a":--1}`, `{"a":1e}`,
		"{\"name\":\"\xff\"}", strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var want map[string]json.RawMessage
		err := json.Unmarshal(in, &want)
		got := map[string][]byte{}
		valid := members(in, func(name string, value []byte) {
			if name, ok := text([]byte(name)); ok {
				got[name] = bytes.Clone(value)
			}
		})
		if isObject := err == nil && want != nil; valid != isObject {
			t.Fatalf("valid %t; encoding/json: %v", valid, err)
		}
		if !valid {
			return
		}
		if len(got) != len(want) {
			t.Errorf("%d members, want %d", len(got), len(want))
		}
		for name, value := range want {
			if !bytes.Equal(got[name], value) {
				t.Errorf("%q is %s, want %s", name, got[name], value)
			}
			var s string
			isText := json.Unmarshal(value, &s) == nil
			if g, ok := text(value); ok != isText || g != s {
				t.Errorf("text %q, %t; want %q, %t", g, ok, s, isText)
			}
		}
	})
}

// FuzzQuote: what is written is read again, by encoding/json, too.
func FuzzQuote(f *testing.F) {
	f.Add("IP=10.0.0.1;K8S_POD_NAME=\"x\\\"\n\x00ä")
	f.Fuzz(func(t *testing.T, in string) {
		quoted := quote(nil, in)
		want := strings.ToValidUTF8(in, "\uFFFD")
		var s string
		if err := json.Unmarshal(quoted, &s); err != nil {
			t.Fatalf("%s: %v", quoted, err)
		}
		if got, ok := text(quoted); !ok || got != want && got != s {
			t.Errorf("%q, %t; want %q", got, ok, want)
		}
	})
}
