package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// fastMode is the annotation that turns it off.
const fastMode = "berth.dev/fast-mode"

// TestFastMode: through a Service, a macvlan pod of the network is reached as by its address, so it sees the client's own; a client
// without fast mode is seen as its node. A Service without endpoints refuses at once.
func TestFastMode(t *testing.T) {
	s := newSpace(t)
	a := s.pool("a", s.ranges("a", 1, 50), nodesOf("a"))
	b := s.pool("b", s.ranges("b", 1, 50), nodesOf("b"))
	s.underlay("underlay", nil)
	for _, n := range nodes {
		server := s.start("server-"+n.letter(), onNode(n), probed, s.firstOf(a, b))
		s.service("web-"+n.letter(), server)
	}
	s.serve("nobody", map[string]string{"backend-of": "nobody"})
	for name, options := range map[string][]podOption{"fast": nil, "steered": {note(fastMode, "Disabled")}} {
		p := s.start(name, append([]podOption{onNode(nodeA), probed, s.firstOf(a, b)}, options...)...)
		own, _ := s.boundTo(p, "eth0")
		for i, family := range []string{"4", "6"} {
			want := fmt.Sprintf(`"remote":"%s:`, map[string]string{"4": own[i].String(), "6": "[" + own[i].String() + "]"}[family])
			for _, to := range []string{"web-a", "web-b"} {
				request := fmt.Sprintf("get -timeout 3s -%s http://%s", family, to)
				if name == "steered" {
					if answer := s.reach(p, request)[0]; strings.Contains(answer, want) {
						t.Errorf("%s to %s by IPv%s: %s, its own address is %s", name, to, family, answer, own[i])
					}
					continue
				}
				// Until duplicate address detection is over, a link-local address is the source of what is on the link.
				eventually(t, patience, fmt.Sprintf("%s to %s by IPv%s is seen as %s", name, to, family, own[i]), func(context.Context) error {
					if answer := s.reach(p, request)[0]; !strings.Contains(answer, want) {
						return errors.New(answer)
					}
					return nil
				})
			}
			out, err := s.exec(p, "sh", "-c", fmt.Sprintf("testapp get -timeout 3s -%s http://nobody 2>&1 || true", family))
			if err != nil || !strings.Contains(out, "refused") {
				t.Errorf("%s to a Service without endpoints: %q, %v", name, out, err)
			}
		}
		s.reach(p, "udp web-a:8081 x", "udp web-b:8081 x")
	}
}
