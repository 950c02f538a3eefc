//go:build linux

package path

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

const sysctlRoot = "/proc/sys/net"

// setting is one sysctl below net/.
type setting struct{ key, value string }

// vmacSettings hold before the link is up. In the order in which they matter.
func vmacSettings(link string) []setting {
	v4, v6 := "ipv4/conf/"+link+"/", "ipv6/conf/"+link+"/"
	return []setting{
		{v6 + "addr_gen_mode", "1"}, // no link-local address, so no address at all
		{v6 + "accept_ra", "0"},     // the underlay's router is not the host's
		{v6 + "autoconf", "0"},
		{v6 + "disable_ipv6", "0"},   // hardened nodes disable it by default on new links, and then refuse routes by them
		{v4 + "forwarding", "1"},     // the same with forwarding
		{v4 + "arp_ignore", "1"},     // else the kernel answers here for every address of the node
		{v4 + "send_redirects", "0"}, // from a pod to its neighbour by way of us is what is wanted
		{v4 + "rp_filter", "0"},      // the program is stricter: it checks address and MAC; and policy routing keeps working
	}
}

// apply writes the settings that differ and says so. IPv6 may be off in the kernel: then it has no settings either.
func apply(log *slog.Logger, settings ...setting) error {
	for _, s := range settings {
		before, err := readSysctl(s.key)
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(s.key, "ipv6/") {
			continue
		}
		if err == nil && before == s.value {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(sysctlRoot, s.key), []byte(s.value), 0)
		}
		if err != nil {
			return fmt.Errorf("set sysctl net.%s=%s: %w; the agent must be privileged and see a writable /proc/sys",
				strings.ReplaceAll(s.key, "/", "."), s.value, err)
		}
		log.Info("changed sysctl", "key", "net."+strings.ReplaceAll(s.key, "/", "."), "from", before, "to", s.value)
	}
	return nil
}

func readSysctl(key string) (string, error) {
	b, err := os.ReadFile(filepath.Join(sysctlRoot, key))
	return strings.TrimSpace(string(b)), err
}

// routerSettings make the node a router that tells pods at once that a Service has no endpoints. The kernel limits ICMP errors to each
// destination, and redirects are charged to the same account: with each packet from one pod of the node to another behind a Service it wants
// to tell them that they could reach each other directly, and so uses up what is there. Of IPv4, where it goes through routes and peers once
// more for that, redirects are turned off: all's send_redirects is ORed with each link's own, which stays as it is, and is 0 on vmacs. IPv6
// has no such setting, though redirects are never sent by a vmac, which has no link-local address (net/ipv6/ip6_output.c, ip6_forward);
// so ICMPv6 errors have no limit for each destination. That of the node (net.ipv4.icmp_msgs_per_sec) stays.
var (
	routerSettings4 = []setting{{"ipv4/ip_forward", "1"}, {"ipv4/conf/all/send_redirects", "0"}}
	routerSettings6 = []setting{{"ipv6/conf/all/forwarding", "1"}, {"ipv6/icmp/ratelimit", "0"}}
)

// forward makes the node a router, for the families that have endpoints only. It is never undone: by then others rely on it.
func forward(log *slog.Logger, v4, v6 bool) error {
	if v4 {
		if err := apply(log, routerSettings4...); err != nil {
			return err
		}
	}
	if !v6 {
		return nil
	}
	switch forwarding, err := readSysctl(routerSettings6[0].key); {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("an endpoint has an IPv6 address, but IPv6 is off in this node's kernel; remove ipv6.disable=1 from its command line")
	case err != nil || forwarding != "1":
		if err := keepAdvertisements(log); err != nil {
			return err
		}
	}
	return apply(log, routerSettings6...)
}

// keepAdvertisements lets links go on to listen to router advertisements. When forwarding turns on, the kernel drops the
// default routes learnt so, and ignores further ones, on links where accept_ra is 1; with 2 it keeps them (ip-sysctl.rst).
func keepAdvertisements(log *slog.Logger) error {
	links, err := filepath.Glob(filepath.Join(sysctlRoot, "ipv6/conf/*/accept_ra"))
	if err != nil {
		return err
	}
	for _, file := range links {
		link := filepath.Base(filepath.Dir(file))
		key := "ipv6/conf/" + link + "/accept_ra"
		if link == "all" || link == "default" || link == "lo" {
			continue
		}
		if now, err := readSysctl(key); err != nil || now != "1" {
			continue // also if the link has gone meanwhile
		}
		if err := apply(log, setting{key, "2"}); err != nil {
			return err
		}
	}
	return nil
}
