package sock

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthdev/berth/service"
)

// model is the maps as plain ones.
type model struct {
	frontends map[endpoint]uint32
	services  map[uint32]serviceValue
	slots     map[slotKey]endpoint
	members   map[memberKey]uint64
}

func newModel() model {
	return model{map[endpoint]uint32{}, map[uint32]serviceValue{}, map[slotKey]endpoint{}, map[memberKey]uint64{}}
}

// write carries out changes one by one; after each, see is called.
func (m model) write(c changes, see func()) {
	each(c.slots, func(p put[slotKey, endpoint]) { m.slots[p.key] = p.value }, see)
	each(c.members, func(p put[memberKey, uint64]) { m.members[p.key] = p.value }, see)
	each(c.goneFrontends, func(k endpoint) { delete(m.frontends, k) }, see)
	each(c.services, func(p put[uint32, serviceValue]) { m.services[p.key] = p.value }, see)
	each(c.frontends, func(p put[endpoint, uint32]) { m.frontends[p.key] = p.value }, see)
	each(c.goneMembers, func(k memberKey) { delete(m.members, k) }, see)
	each(c.goneServices, func(k uint32) { delete(m.services, k) }, see)
	each(c.goneSlots, func(k slotKey) { delete(m.slots, k) }, see)
}

func each[T any](list []T, do func(T), see func()) {
	for _, e := range list {
		do(e)
		see()
	}
}

// read is what a program finds for a frontend: a word, or all backends that it may pick.
func (m model) read(f endpoint) string {
	id, ok := m.frontends[f]
	if !ok {
		return "none"
	}
	s, ok := m.services[id]
	if !ok {
		return "broken: no service"
	}
	if s.Flags&flagSteered != 0 {
		return "steered"
	}
	var backends []string
	for i := range s.Count {
		e, ok := m.slots[slotKey{id, s.Generation, i}]
		if !ok {
			return fmt.Sprintf("broken: no slot %d of %d", i, s.Count)
		}
		if e == (endpoint{}) {
			return "refuse"
		}
		network, ok := m.members[memberKey{id, e}]
		if !ok {
			return fmt.Sprintf("gone: %v", e) // picked again; at worst to the node
		}
		backends = append(backends, fmt.Sprint(e, network))
	}
	return fmt.Sprint(backends)
}

// answers says whether a flow to the endpoint stays.
func (m model) answers(id uint32, e endpoint) bool {
	_, is := m.members[memberKey{id, e}]
	e.Protocol |= stays
	_, still := m.members[memberKey{id, e}]
	return is || still
}

// of is what the ports say.
func of(ports []port) map[endpoint]string {
	out := map[endpoint]string{}
	for _, p := range ports {
		var backends []string
		for _, b := range p.backends {
			backends = append(backends, fmt.Sprint(b.endpoint, b.network))
		}
		word := fmt.Sprint(backends)
		switch {
		case p.steered:
			word = "steered"
		case len(backends) == 0:
			word = "refuse"
		}
		for _, f := range p.frontends {
			out[f] = word
		}
	}
	return out
}

// genPorts are ports with few addresses, so that much is the same from one to the next.
func genPorts(t *rapid.T) []port {
	var ports []port
	free := []uint16{1, 2, 3, 4, 5, 6}
	for range rapid.IntRange(0, 4).Draw(t, "ports") {
		var p port
		for range rapid.IntRange(1, 2).Draw(t, "frontends") {
			if len(free) == 0 {
				break
			}
			i := rapid.IntRange(0, len(free)-1).Draw(t, "frontend")
			p.frontends = append(p.frontends, endpointOf(vip4, free[i], service.TCP))
			free = slices.Delete(free, i, i+1)
		}
		if p.steered = rapid.IntRange(0, 5).Draw(t, "steered") == 0; !p.steered {
			p.affinity = uint32(rapid.IntRange(0, 1).Draw(t, "affinity"))
			for range rapid.IntRange(0, 4).Draw(t, "backends") {
				to := rapid.SampledFrom([]*[]member{&p.backends, &p.backends, &p.staying}).Draw(t, "class")
				*to = append(*to, member{
					endpointOf(overlay4, uint16(rapid.IntRange(1, 5).Draw(t, "backend")), service.TCP), uint64(rapid.IntRange(0, 1).Draw(t, "network"))})
			}
		}
		if len(p.frontends) > 0 {
			ports = append(ports, p.normal())
		}
	}
	return ports
}

// Whoever reads the maps at any time during a change sees each frontend as it was or as it will be. Afterwards they are what was
// wanted, nothing else is in them, nothing needs changing, and a new agent reads the same rows.
func TestDiff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, rows, number := newModel(), table{}, uint32(0)
		fresh := func() uint32 { number++; return number % 7 } // comes again
		for range 4 {
			before, want := map[endpoint]string{}, genPorts(t)
			for f := range m.frontends {
				before[f] = m.read(f)
			}
			old := rows
			c, next, removed := diff(want, rows, func() uint32 {
				for {
					if id := fresh(); !has2(rows, id) {
						return id
					}
				}
			})
			after, moved := of(want), map[endpoint]string{}
			for id, r := range old {
				for _, f := range r.frontends {
					for _, word := range of([]port{next[id].port}) { // of a frontend that leaves it for another
						moved[f] = word
					}
				}
			}
			m.write(c, func() {
				for id, r := range old {
					for _, b := range slices.Concat(r.backends, r.staying) {
						if (hasMember(next[id].backends, b.endpoint) || hasMember(next[id].staying, b.endpoint)) && !m.answers(id, b.endpoint) {
							t.Fatalf("flows to %v of %d must stay, and find nobody", b.endpoint, id)
						}
					}
				}
				for _, f := range append(slices.Collect(maps.Keys(before)), slices.Collect(maps.Keys(after))...) {
					is := m.read(f)
					if !slices.Contains([]string{orNone(before[f]), orNone(after[f])}, is) && !between(before[f], after[f], is) && is != moved[f] {
						t.Fatalf("%v is %s, between %s and %s", f, is, orNone(before[f]), orNone(after[f]))
					}
				}
			})
			rows = next
			got := map[endpoint]string{}
			for f := range m.frontends {
				got[f] = m.read(f)
			}
			if diff := cmp.Diff(after, got); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
			if again, _, _ := diff(want, rows, fresh); again.size() != 0 {
				t.Fatalf("the same once more: %+v", again)
			}
			read, gone := tidy(m.frontends, m.services, m.slots, m.members)
			if gone.size() != 0 || !equalTables(read, rows) {
				t.Fatalf("read %+v, want %+v; left over %+v", read, rows, gone)
			}
			for id, r := range old {
				lost := slices.ContainsFunc(r.frontends, func(f endpoint) bool { return !slices.Contains(next[id].frontends, f) })
				for _, b := range slices.Concat(r.backends, r.staying) {
					is := m.answers(id, b.endpoint)
					if (is && !lost) == slices.Contains(removed, b.endpoint) && !elsewhere(old, next, b.endpoint) {
						t.Fatalf("backend %v is there: %v; its row has lost a frontend: %v; removed: %v", b.endpoint, is, lost, removed)
					}
				}
			}
		}
	})
}

// elsewhere says whether several rows, before or after, have the backend: then it may be removed of one only.
func elsewhere(old, next table, e endpoint) bool {
	n := map[uint32]bool{}
	for _, t := range []table{old, next} {
		for id, r := range t {
			for _, b := range slices.Concat(r.backends, r.staying) {
				if b.endpoint == e {
					n[id] = true
				}
			}
		}
	}
	return len(n) > 1
}

func has2(t table, id uint32) bool { _, ok := t[id]; return ok }

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// between are the mixtures that do no harm: old backends by their new networks.
func between(before, after, is string) bool {
	strip := func(s string) string {
		fields := strings.Fields(strings.Trim(s, "[]"))
		for i, f := range fields {
			fields[i] = strings.TrimRight(f, "01") // the network
		}
		return fmt.Sprint(fields)
	}
	return strip(is) == strip(before)
}

func equalTables(a, b table) bool {
	canonical := func(t table) table {
		out := table{}
		for id, r := range t {
			r.frontends, r.backends, r.staying = append([]endpoint{}, r.frontends...), append([]member{}, r.backends...), append([]member{}, r.staying...)
			out[id] = r
		}
		return out
	}
	return reflect.DeepEqual(canonical(a), canonical(b))
}

// Few writes: what a change is not about is not written.
func TestDiffWritesLittle(t *testing.T) {
	backend := func(n int) member { return member{endpointOf(overlay4, uint16(n), service.TCP), 5} }
	a := port{frontends: []endpoint{endpointOf(vip4, 1, service.TCP)}, backends: []member{backend(1), backend(2)}}
	b := port{frontends: []endpoint{endpointOf(vip4, 2, service.TCP)}, backends: []member{backend(1), backend(2)}, affinity: 3}
	have := table{10: {a, 1}, 20: {b, 1}}
	for name, tc := range map[string]struct {
		want    func(a, b *port)
		changes string // slots, members, services, frontends; then those that go
		removed int
	}{
		"nothing":          {func(a, b *port) {}, "0 0 0 0, 0 0 0 0", 0},
		"backend more":     {func(a, b *port) { a.backends = append(a.backends, backend(3)) }, "3 1 1 0, 0 0 0 2", 0},
		"backend less":     {func(a, b *port) { a.backends = a.backends[:1] }, "1 0 1 0, 0 1 0 2", 1},
		"one stays":        {func(a, b *port) { a.backends, a.staying = a.backends[:1], a.backends[1:] }, "1 1 1 0, 0 1 0 2", 0},
		"no backend":       {func(a, b *port) { a.backends = nil }, "1 0 1 0, 0 2 0 2", 2},
		"steered":          {func(a, b *port) { a.backends, a.steered = nil, true }, "0 0 1 0, 0 2 0 2", 2},
		"another network":  {func(a, b *port) { a.backends = []member{{backend(1).endpoint, 6}, backend(2)} }, "2 1 1 0, 0 0 0 2", 0},
		"affinity":         {func(a, b *port) { b.affinity = 4 }, "0 0 1 0, 0 0 0 0", 0},
		"frontend more":    {func(a, b *port) { a.frontends = append(a.frontends, endpointOf(vip4, 3, service.TCP)) }, "0 0 0 1, 0 0 0 0", 0},
		"frontend other":   {func(a, b *port) { a.frontends = []endpoint{endpointOf(vip4, 3, service.TCP)} }, "2 2 1 1, 1 2 1 2", 2},
		"frontends change": {func(a, b *port) { a.frontends, b.frontends = b.frontends, a.frontends }, "0 0 2 0, 0 0 0 0", 0},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := a, b
			tc.want(&a, &b)
			c, _, removed := diff([]port{a, b}, have, func() uint32 { return 30 })
			got := fmt.Sprintf("%d %d %d %d, %d %d %d %d", len(c.slots), len(c.members), len(c.services), len(c.frontends),
				len(c.goneFrontends), len(c.goneMembers), len(c.goneServices), len(c.goneSlots))
			if got != tc.changes || len(removed) != tc.removed {
				t.Errorf("writes %s, want %s; removed %v, want %d", got, tc.changes, removed, tc.removed)
			}
		})
	}
}

func TestPortsOf(t *testing.T) {
	one := func(change func(p *service.Port)) service.Service {
		return with(service.Service{Name: "default/web", Ports: []service.Port{{
			Name: "http", Frontends: frontends(vip4, 80, service.TCP),
			Backends: []service.Backend{{Address: pods4[0], Port: 8080, Network: inNet}, {Address: overlay4, Port: 1}, {Address: node4, Port: 2, Node: true}},
			Affinity: 1500 * time.Millisecond,
		}}}, change)
	}
	all := []member{
		{endpointOf(pods4[0], 8080, service.TCP), networkOf(inNet, true)},
		{endpointOf(overlay4, 1, service.TCP), networkNone},
		{endpointOf(node4, 2, service.TCP), networkOf("", true)},
	}
	fs := []endpoint{endpointOf(vip4, 80, service.TCP)}
	for name, tc := range map[string]struct {
		change func(p *service.Port)
		want   []port
		err    string
	}{
		"as it is": {func(p *service.Port) {}, []port{{frontends: fs, backends: all, affinity: 2}}, ""},
		"twice": {func(p *service.Port) {
			p.Backends = append(p.Backends, p.Backends...)
			p.Frontends = append(p.Frontends, p.Frontends...)
		}, []port{{frontends: fs, backends: all, affinity: 2}}, ""},
		"no frontend":      {func(p *service.Port) { p.Frontends = nil }, nil, ""},
		"SCTP":             {func(p *service.Port) { p.Frontends[0].Protocol = service.SCTP }, nil, ""},
		"steered":          {func(p *service.Port) { p.Steered = "why" }, []port{{frontends: fs, steered: true}}, ""},
		"sources":          {func(p *service.Port) { p.Sources = []netip.Prefix{underlay} }, []port{{frontends: fs, steered: true}}, ""},
		"drop, with some":  {func(p *service.Port) { p.Drop = true }, []port{{frontends: fs, backends: all, affinity: 2}}, ""},
		"drop":             {func(p *service.Port) { p.Drop, p.Backends = true, nil }, []port{{frontends: fs, steered: true}}, ""},
		"two families":     {func(p *service.Port) { p.Frontends = append(p.Frontends, frontends(vip6, 80, service.TCP)...) }, nil, `service default/web, port "http": frontends 10.96.0.10:80/TCP and [fd96::10]:80/TCP differ`},
		"two protocols":    {func(p *service.Port) { p.Frontends = append(p.Frontends, frontends(vip4, 80, service.UDP)...) }, nil, "differ in family or protocol"},
		"alien backend":    {func(p *service.Port) { p.Backends[0].Address = pods6[0] }, nil, "backend fd01::11 is not of the family"},
		"nowhere":          {func(p *service.Port) { p.Backends[0].Address = netip.IPv4Unspecified() }, nil, "backend 0.0.0.0 is not"},
		"no address":       {func(p *service.Port) { p.Frontends[0].Address = netip.Addr{} }, nil, "a frontend without address"},
		"v4-mapped is v4":  {func(p *service.Port) { p.Frontends[0].Address = netip.AddrFrom16(vip4.As16()) }, []port{{frontends: fs, backends: all, affinity: 2}}, ""},
		"affinity of ages": {func(p *service.Port) { p.Affinity = 24 * time.Hour }, []port{{frontends: fs, backends: all, affinity: 86400}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := portsOf(one(tc.change))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := slices.Clone(tc.want)
			for i := range want {
				want[i].backends = slices.Clone(want[i].backends)
				want[i] = want[i].normal()
			}
			if !equalTables(tableFrom(want), tableFrom(got)) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func tableFrom(ports []port) table {
	t := table{}
	for i, p := range ports {
		t[uint32(i)] = row{port: p}
	}
	return t
}
