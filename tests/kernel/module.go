package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// modules are all that the tests may need. A machine loads them at once, so that what is missing shows before a test does.
// The first is what nf_conntrack's libcrc32c wants by an alias (softdep), not by name.
var modules = strings.Fields(`
	crc32c_generic
	veth macvlan bridge dummy 8021q bonding tls tun af_packet
	sctp sch_ingress cls_bpf act_bpf inet_diag tcp_diag udp_diag
	nf_tables nf_conntrack nf_conntrack_netlink nfnetlink nf_nat
	nft_chain_nat nft_masq nft_nat nft_redir nft_ct nft_fib nft_fib_ipv4 nft_fib_ipv6 nft_fib_inet nft_hash nft_limit nft_log nft_numgen
	nft_reject nft_reject_ipv4 nft_reject_ipv6 nft_reject_inet nft_compat nf_log_syslog
	ip_tables ip6_tables iptable_nat ip6table_nat iptable_filter ip6table_filter
	x_tables xt_addrtype xt_comment xt_conntrack xt_mark xt_MASQUERADE xt_nat xt_statistic xt_tcpudp`)

// A module's file is named with - or _ as its author liked, the module itself with _.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

func isModule(file string) bool {
	return strings.HasSuffix(file, ".ko") || strings.HasSuffix(file, ".ko.xz")
}

// module is one to load.
type module struct {
	name string
	data []byte
}

// modules in the order in which they can be loaded: each after those that it needs.
func (k kernel) modules() ([]module, error) {
	files, err := filepath.Glob(filepath.Join(k.dir, "*.ko*"))
	if err != nil {
		return nil, err
	}
	at := make(map[string]string)
	for _, f := range files {
		at[moduleName(f)] = f
	}
	list, err := os.ReadFile(filepath.Join(k.dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	builtin := make(map[string]bool)
	for line := range strings.Lines(string(list)) {
		builtin[moduleName(line)] = true
	}
	var order []module
	var add func(name string) error
	add = func(name string) error {
		if builtin[name] || slices.ContainsFunc(order, func(m module) bool { return m.name == name }) {
			return nil
		}
		file, ok := at[name]
		if !ok {
			return fmt.Errorf("kernel %s has no module %s", k.version, name)
		}
		data, needs, err := readModule(file)
		if err != nil {
			return fmt.Errorf("module %s: %w", file, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return fmt.Errorf("%w, which %s needs", err, name)
			}
		}
		order = append(order, module{name, data})
		return nil
	}
	for _, name := range modules {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// readModule reads a module, and what it says that it needs (depends= in its section .modinfo, see modinfo(8)).
func readModule(file string) (data []byte, needs []string, err error) {
	if data, err = os.ReadFile(file); err != nil {
		return nil, nil, err
	}
	if strings.HasSuffix(file, ".xz") {
		if data, err = exec.Command("xz", "-dc", file).Output(); err != nil {
			return nil, nil, fmt.Errorf("xz: %w", err)
		}
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, nil, fmt.Errorf("no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, nil, err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if names, ok := strings.CutPrefix(field, "depends="); ok && names != "" {
			for _, n := range strings.Split(names, ",") {
				needs = append(needs, moduleName(n))
			}
		}
	}
	return data, needs, nil
}
