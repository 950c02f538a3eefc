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

// routerSettings make the node a router of IPv4. The kernel ORs all's send_redirects with each link's own, which stays as it is: only where
// that is 0, as on vmacs, redirects end. Else it wants to tell pods that the pod behind a Service could be reached directly, and for that goes
// through routes and peers once more with each packet from one pod of the node to another.
var routerSettings = []setting{{"ipv4/ip_forward", "1"}, {"ipv4/conf/all/send_redirects", "0"}}

// forward makes the node a router, for the families that have endpoints only. It is never undone: by then others rely on it.
func forward(log *slog.Logger, v4, v6 bool) error {
	if v4 {
		if err := apply(log, routerSettings...); err != nil {
			return err
		}
	}
	if !v6 {
		return nil
	}
	const key = "ipv6/conf/all/forwarding"
	switch now, err := readSysctl(key); {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("an endpoint has an IPv6 address, but IPv6 is off in this node's kernel; remove ipv6.disable=1 from its command line")
	case err == nil && now == "1":
		return nil
	}
	if err := keepAdvertisements(log); err != nil {
		return err
	}
	return apply(log, setting{key, "1"})
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
