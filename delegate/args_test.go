package delegate

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParseArgs(t *testing.T) {
	tests := []struct {
		name, in string
		want     Args
	}{
		{"none", "", Args{}},
		{"containerd", "K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
			Args{Namespace: "shop", Pod: "web-0", UID: "u1"}},
		{"Multus repeats the runtime's", "IgnoreUnknown=true;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=;" +
			"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u1",
			Args{Namespace: "shop", Pod: "web-0", UID: "u1"}},
		{"known without a meaning", "K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_NAME=web-0", Args{Pod: "web-0"}},
		{"an empty value does not count", "K8S_POD_UID=u1;K8S_POD_UID=", Args{UID: "u1"}},
		{"addresses", "IP=10.6.1.7/16,fd00::7,10.6.1.7", Args{IPs: addrs("10.6.1.7", "fd00::7")}},
		{"addresses twice", "IP=10.6.1.7;IP=10.6.1.8,10.6.1.7/16", Args{IPs: addrs("10.6.1.7", "10.6.1.8")}},
		{"no address", "IP=", Args{}},
		{"unknown", "IgnoreUnknown=true;MAC=02:00:00:00:00:01", Args{}},
		{"unknown before", "X=1;IgnoreUnknown=True", Args{}},
		{"equals sign in a value", "IgnoreUnknown=1;X=a=b;K8S_POD_NAME=web", Args{Pod: "web"}},
		{"last separator", "K8S_POD_NAME=web;", Args{Pod: "web"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseArgs(test.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmpAddrs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseArgsErrors(t *testing.T) {
	tests := []struct{ in, want string }{
		{"K8S_POD_NAME", `"K8S_POD_NAME" is no KEY=VALUE`},
		{"X=1;Y=2", "unknown X, Y; set IgnoreUnknown=1"},
		{"IgnoreUnknown=1;X=1;IgnoreUnknown=0", "unknown X"},
		{"IgnoreUnknown=maybe", `"maybe"`},
		{"IP=10.6.1.777", `IP=10.6.1.777: "10.6.1.777" is no IP address`},
		{"IP=10.6.1.7,", `"" is no IP address`},
		{"IP=10.6.1.7/33", `"10.6.1.7/33" is no IP address`},
		{"IP=fe80::1%eth0", "is no IP address"},
	}
	for _, test := range tests {
		if _, err := ParseArgs(test.in); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.in, err, test.want)
		}
	}
}

// formatArgs is what a runtime does.
func formatArgs(a Args) string {
	var ips []string
	for _, ip := range a.IPs {
		ips = append(ips, ip.String())
	}
	return fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_UID=%s;K8S_POD_INFRA_CONTAINER_ID=c1;IP=%s",
		a.Namespace, a.Pod, a.UID, strings.Join(ips, ","))
}

// TestParseArgsFormat: what was formatted is read back, also if it comes twice.
func TestParseArgsFormat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-z0-9.-]{0,20}`)
		ip := rapid.Custom(func(t *rapid.T) netip.Addr {
			n := rapid.SampledFrom([]int{4, 16}).Draw(t, "bytes")
			a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "address"))
			return a.Unmap()
		})
		want := Args{word.Draw(t, "namespace"), word.Draw(t, "pod"), word.Draw(t, "uid"), nil}
		want.IPs = MergeAddrs(nil, rapid.SliceOfN(ip, 0, 4).Draw(t, "ips")...)
		s := formatArgs(want)
		for _, in := range []string{s, s + ";" + s} {
			got, err := ParseArgs(in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpAddrs); diff != "" {
				t.Errorf("%s (-want +got):\n%s", in, diff)
			}
		}
	})
}

// FuzzParseArgs: whatever is accepted has addresses that a lease can have, and is the same when written again.
func FuzzParseArgs(f *testing.F) {
	f.Add("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u1;K8S_POD_INFRA_CONTAINER_ID=c1;IP=10.6.1.7/16,fd00::7")
	f.Add("IP=")
	f.Add("IP=::ffff:10.6.1.7,10.6.1.7/8;IP=10.6.1.8")
	f.Add("X=a=b;IgnoreUnknown=TRUE;")
	f.Add("K8S_POD_NAME=a;K8S_POD_NAME=;K8S_POD_NAME=b;; ;IgnoreUnknown=1;IgnoreUnknown=0;X=")
	f.Add("K8S_POD_NAME")
	f.Fuzz(func(t *testing.T, in string) {
		args, err := ParseArgs(in)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "CNI_ARGS: ") {
				t.Errorf("%q: %v", in, err)
			}
			return
		}
		for _, a := range args.IPs {
			if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
				t.Errorf("%q: addresses %v", in, args.IPs)
			}
		}
		if again, err := ParseArgs(formatArgs(args)); err != nil || !cmp.Equal(args, again, cmpAddrs) {
			t.Errorf("%+v is read back as %+v, %v", args, again, err)
		}
	})
}
