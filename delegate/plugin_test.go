package delegate_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/berthdev/berth/delegate"
)

// exe runs a plugin as a runtime does. Its error is what the plugin printed on stdout as such.
func exe(t testing.TB, path, command, config string, env ...string) (stdout string, cniErr *types.Error) {
	t.Helper()
	cmd := exec.Command(path)
	cmd.Env = append([]string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=/no/such/netns", "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=web-0",
	}, env...)
	cmd.Stdin = strings.NewReader(config)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	if err := json.Unmarshal(out.Bytes(), &cniErr); err != nil {
		t.Fatalf("%s exits %v without a CNI error: %v\nstdout %s\nstderr %s", command, cmd.ProcessState, err, &out, &stderr)
	}
	return "", cniErr
}

func config(version, socket string) string {
	return fmt.Sprintf(`{"cniVersion":%q,"name":"vlan910","type":"macvlan","ipam":{"type":"berth","socket":%q}}`, version, socket)
}

const addResult = `{"cniVersion":"1.1.0","ips":[{"address":"10.6.1.7/16"},{"address":"fd00:6::7/64"}],
	"routes":[{"dst":"169.254.1.1/32","scope":253},{"dst":"10.96.0.0/16","gw":"169.254.1.1"}]}`

func TestVersion(t *testing.T) {
	out, cniErr := exe(t, buildBerth(t), "VERSION", "")
	if cniErr != nil {
		t.Fatal(cniErr)
	}
	var v struct{ SupportedVersions []string }
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		if !slices.Contains(v.SupportedVersions, want) {
			t.Errorf("no %s in %v", want, v.SupportedVersions)
		}
	}
}

func TestAbout(t *testing.T) {
	cmd := exec.Command(buildBerth(t))
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "CNI IPAM plugin berth ") {
		t.Errorf("without a command: %s, %v", out, err)
	}
}

// TestAddVersions: the result keeps the scope of routes in every version, and says the version asked for.
func TestAddVersions(t *testing.T) {
	agent := newAgent(t, func(string, delegate.Request) (int, string) { return 200, addResult })
	tests := []struct{ version, ip4, ip6 string }{
		{"0.3.0", `{"version":"4","address":"10.6.1.7/16"}`, `{"version":"6","address":"fd00:6::7/64"}`},
		{"0.3.1", `{"version":"4","address":"10.6.1.7/16"}`, `{"version":"6","address":"fd00:6::7/64"}`},
		{"0.4.0", `{"version":"4","address":"10.6.1.7/16"}`, `{"version":"6","address":"fd00:6::7/64"}`},
		{"1.0.0", `{"address":"10.6.1.7/16"}`, `{"address":"fd00:6::7/64"}`},
		{"1.1.0", `{"address":"10.6.1.7/16"}`, `{"address":"fd00:6::7/64"}`},
	}
	for _, test := range tests {
		t.Run(test.version, func(t *testing.T) {
			out, cniErr := exe(t, buildBerth(t), "ADD", config(test.version, agent.socket))
			if cniErr != nil {
				t.Fatal(cniErr)
			}
			want := fmt.Sprintf(`{"cniVersion":%q,"ips":[%s,%s],"dns":{},
				"routes":[{"dst":"169.254.1.1/32","scope":253},{"dst":"10.96.0.0/16","gw":"169.254.1.1"}]}`, test.version, test.ip4, test.ip6)
			if diff := cmp.Diff(decode(t, want), decode(t, out), ignoreEmptyDNS); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
	for _, version := range []string{"", "0.1.0", "0.2.0", "9.9.9"} {
		if _, cniErr := exe(t, buildBerth(t), "ADD", config(version, agent.socket)); cniErr == nil || cniErr.Code != types.ErrIncompatibleCNIVersion {
			t.Errorf("version %q: %v", version, cniErr)
		}
	}
}

var ignoreEmptyDNS = cmp.FilterPath(func(p cmp.Path) bool { return p.String() == `["dns"]` || strings.Contains(p.GoString(), `["dns"]`) }, cmp.Ignore())

func decode(t *testing.T, s string) (v map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v: %s", err, s)
	}
	return v
}

// TestRequest: every verb goes to its path with the parameters as they came.
func TestRequest(t *testing.T) {
	agent := newAgent(t, func(path string, _ delegate.Request) (int, string) {
		if path == delegate.PathAdd {
			return 200, addResult
		}
		return 200, "{}"
	})
	conf := config("1.1.0", agent.socket)
	for command, path := range map[string]string{
		"ADD": delegate.PathAdd, "DEL": delegate.PathDel, "CHECK": delegate.PathCheck,
		"GC": delegate.PathGC, "STATUS": delegate.PathStatus,
	} {
		if _, cniErr := exe(t, buildBerth(t), command, conf); cniErr != nil {
			t.Errorf("%s: %v", command, cniErr)
		}
		got := agent.last(t)
		want := call{path, delegate.Request{ContainerID: "c1", NetNS: "/no/such/netns", IfName: "eth0",
			Args: "IgnoreUnknown=1;K8S_POD_NAME=web-0", Config: json.RawMessage(conf)}}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(call{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", command, diff)
		}
	}
	// The namespace is gone: DEL still goes through.
	if _, cniErr := exe(t, buildBerth(t), "DEL", conf, "CNI_NETNS="); cniErr != nil {
		t.Errorf("DEL without namespace: %v", cniErr)
	}
}

func TestAgentError(t *testing.T) {
	agent := newAgent(t, func(string, delegate.Request) (int, string) {
		return 409, `{"code":101,"msg":"pool \"zone-a\" has no free address","details":"254 of 254 bound"}`
	})
	for _, command := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
		_, cniErr := exe(t, buildBerth(t), command, config("1.1.0", agent.socket))
		want := &types.Error{Code: 101, Msg: `pool "zone-a" has no free address`, Details: "254 of 254 bound"}
		if diff := cmp.Diff(want, cniErr); diff != "" {
			t.Errorf("%s (-want +got):\n%s", command, diff)
		}
	}
}

func TestAgentAway(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock") // a socket that nobody accepts at, as a killed agent leaves it
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	_ = listener.Close()
	noSocket := filepath.Join(dir, "file")
	if err := os.WriteFile(noSocket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	hangUp := newHangUp(t)

	for _, socket := range []string{filepath.Join(dir, "absent.sock"), dead, noSocket, hangUp} {
		for command, code := range map[string]uint{
			"ADD": types.ErrTryAgainLater, "DEL": types.ErrTryAgainLater, "CHECK": types.ErrTryAgainLater,
			"GC": types.ErrTryAgainLater, "STATUS": delegate.CodeNotAvailable,
		} {
			_, cniErr := exe(t, buildBerth(t), command, config("1.1.0", socket))
			if cniErr == nil || cniErr.Code != code || !strings.Contains(cniErr.Msg, socket) || !strings.Contains(cniErr.Msg, "berth-agent pod") {
				t.Errorf("%s at %s: %v, want code %d", command, filepath.Base(socket), cniErr, code)
			}
		}
	}
}

// newHangUp is an agent that dies over each request.
func newHangUp(t *testing.T) string {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 10))
			conn.Close()
		}
	}()
	return socket
}

func TestMalformedAnswer(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
		want   string // in the message
	}{
		{"no JSON", 200, "hello", "not a CNI result"},
		{"empty", 200, "", "not a CNI result"},
		{"no version", 200, `{"ips":[{"address":"10.6.1.7/16"}]}`, "its version is \"\", not \"1.0.0\""},
		{"another version", 200, `{"cniVersion":"0.4.0","ips":[{"address":"10.6.1.7/16"}]}`, "its version is \"0.4.0\""},
		{"no address", 200, `{"cniVersion":"1.0.0"}`, "it has no address"},
		{"null for an address", 200, `{"cniVersion":"1.0.0","ips":[null]}`, "a null in a list"},
		{"null for a route", 200, `{"cniVersion":"1.0.0","ips":[{"address":"10.6.1.7/16"}],"routes":[null]}`, "a null in a list"},
		{"null for an interface", 200, `{"cniVersion":"1.0.0","ips":[{"address":"10.6.1.7/16"}],"interfaces":[{},null]}`, "a null in a list"},
		{"cut off", 200, addResult[:len(addResult)-1], "no JSON object"},
		{"error page", 502, "<h1>Bad Gateway</h1>", "HTTP status 502"},
		{"error without code", 500, `{"msg":"x"}`, "HTTP status 500"},
		{"error without message", 500, `{"code":7}`, "HTTP status 500"},
		{"empty error", 404, "", "HTTP status 404"},
		{"success with error status", 500, addResult, "HTTP status 500"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			agent := newRawAgent(t, func(string, delegate.Request) (int, string) { return test.status, test.body })
			_, cniErr := exe(t, buildBerth(t), "ADD", config("1.0.0", agent.socket))
			if cniErr == nil || cniErr.Code != types.ErrDecodingFailure || !strings.Contains(cniErr.Msg, test.want) {
				t.Errorf("%v, want %q", cniErr, test.want)
			}
		})
	}
}

// TestBadSocket: a mistake in the configuration shows at ADD, and keeps no pod from going away.
func TestBadSocket(t *testing.T) {
	for value, want := range map[string]string{
		`7`: "7 is no absolute path", `"run/berth/agent.sock"`: `"run/berth/agent.sock" is no absolute path`,
		`"/run/x\u0000y"`:                     "is no absolute path",
		`"/` + strings.Repeat("x", 107) + `"`: "longer than the 107 bytes",
	} {
		conf := `{"cniVersion":"1.1.0","name":"x","ipam":{"type":"berth","socket":` + value + `}}`
		for _, command := range []string{"ADD", "CHECK", "STATUS", "GC"} {
			if _, cniErr := exe(t, buildBerth(t), command, conf); cniErr == nil || cniErr.Code != types.ErrInvalidNetworkConfig || !strings.Contains(cniErr.Msg, want) {
				t.Errorf("%s: %v, want %q", command, cniErr, want)
			}
		}
		if _, cniErr := exe(t, buildBerth(t), "DEL", conf); cniErr == nil || !strings.Contains(cniErr.Msg, delegate.DefaultSocket) {
			t.Errorf("DEL: %v", cniErr)
		}
	}
}

// TestThin keeps the plugin small: it starts on every ADD and DEL of every pod, and each package that it imports takes its time.
func TestThin(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "github.com/berthdev/berth/cmd/berth")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		for _, heavy := range []string{"k8s.io/", "sigs.k8s.io/", "github.com/cilium/ebpf", "github.com/vishvananda/netlink",
			"github.com/berthdev/berth/api", "github.com/containernetworking/", "net", "crypto/", "fmt", "encoding/json", "regexp",
			"text/", "html/", "os/exec", "context", "log"} {
			if dep == strings.TrimSuffix(heavy, "/") || strings.HasPrefix(dep, heavy) {
				t.Errorf("cmd/berth imports %s", dep)
			}
		}
	}
	info, err := os.Stat(buildBerth(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 2<<20 {
		t.Errorf("the plugin has %d bytes", info.Size())
	}
}
