//go:build linux

package links

import (
	"errors"
	"fmt"
	"os"
)

// copySetting of IPv6 from one link to another.
func copySetting(from, to, key string) error {
	path := func(link string) string { return "/proc/sys/net/ipv6/conf/" + link + "/" + key }
	value, err := os.ReadFile(path(from))
	if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return nil
	}
	if err == nil {
		err = os.WriteFile(path(to), value, 0o644)
	}
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", key, err)
	}
	return nil
}
