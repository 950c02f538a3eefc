package plugin

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// How long the plugin waits for the agent. The kubelet gives up on a sandbox after 2 min (runtimeRequestTimeout) in which
// other plugins have their part; STATUS is asked for every few seconds.
const (
	addTimeout    = 60 * time.Second
	checkTimeout  = 30 * time.Second
	delTimeout    = 30 * time.Second
	gcTimeout     = 60 * time.Second
	statusTimeout = 5 * time.Second
)

func add(c *call) ([]byte, *failure) {
	if f := c.notOwnNamespace(); f != nil {
		return nil, f
	}
	reply, f := c.ask(PathAdd, readMAC(c.netns, c.ifName), addTimeout)
	if f != nil {
		return nil, f
	}
	r := readResult(reply)
	if r.err == nil && r.version != c.version {
		r.err = errors.New("its version is " + strconv.Quote(r.version) + ", not " + strconv.Quote(c.version))
	}
	if r.err != nil {
		return nil, malformed(PathAdd, "a CNI result", r.err, reply)
	}
	if r.ipv6 {
		skipDetection(c.netns, c.ifName)
	}
	return reply, nil
}

// result is what the plugin has to know of a CNI result.
type result struct {
	version string
	ipv6    bool
	err     error
}

// readResult wants an address, and nothing that would crash a main plugin: the CNI library (v1.3.1) panics when it converts an
// interface, address or route that is null.
func readResult(reply []byte) (r result) {
	addresses, nulls := 0, false
	valid := members(reply, func(name string, value []byte) {
		switch name {
		case `"cniVersion"`:
			r.version, _ = text(value)
		case `"ips"`:
			elements(value, func(ip []byte) {
				addresses++
				nulls = nulls || string(ip) == "null"
				members(ip, func(name string, value []byte) {
					r.ipv6 = r.ipv6 || name == `"address"` && strings.Contains(string(value), ":")
				})
			})
		case `"interfaces"`, `"routes"`:
			elements(value, func(e []byte) { nulls = nulls || string(e) == "null" })
		}
	})
	switch {
	case !valid:
		r.err = errors.New("it is no JSON object")
	case nulls:
		r.err = errors.New("it has a null in a list")
	case addresses == 0:
		r.err = errors.New("it has no address")
	}
	return r
}

func del(c *call) ([]byte, *failure) {
	if _, f := c.ask(PathDel, "", delTimeout); f != nil {
		return nil, f
	}
	return nil, c.notOwnNamespace()
}

func check(c *call) ([]byte, *failure) {
	_, f := c.ask(PathCheck, "", checkTimeout)
	return nil, f
}

func gc(c *call) ([]byte, *failure) {
	_, f := c.ask(PathGC, "", gcTimeout)
	return nil, f
}

func status(c *call) ([]byte, *failure) {
	_, f := c.ask(PathStatus, "", statusTimeout)
	if f != nil && f.code == codeTryAgainLater {
		f.code = CodeNotAvailable // the only codes of STATUS are 50 and 51 (CNI spec 1.1.0, section "STATUS")
	}
	return nil, f
}

// notOwnNamespace refuses a pod whose network namespace is the node's, as all CNI plugins do.
func (c *call) notOwnNamespace() *failure {
	if _, own := namespaces(c.netns); !own || c.netnsOK == "1" || strings.EqualFold(c.netnsOK, "true") {
		return nil
	}
	return &failure{codeNamespace, "plugin's netns and netns from CNI_NETNS should not be the same", ""}
}

// post the request to the agent; again if the answer is what to run first. The failure is the agent's own as it is, 11 if the agent is away, 6 if its answer makes no sense.
func (c *call) post(path, mac string, timeout time.Duration) (reply []byte, again bool, f *failure) {
	if c.socketErr != nil && path != PathDel { // a DEL that can never succeed would keep a pod from ever going away
		return nil, false, &failure{codeConfig, "berth: ipam socket: " + c.socketErr.Error(), ""}
	}
	code, reply, err := post(c.socket, path, c.request(mac), timeout)
	switch {
	case errors.Is(err, errProtocol):
		return nil, false, malformed(path, "an answer", err, nil)
	case err != nil:
		if path == PathDel {
			// The main plugins take the link away only once IPAM has succeeded, so this error leaves it in the namespace of a
			// sandbox whose processes are dead, and the kernel goes on answering ARP and NDP for its address. The controller
			// may free that address before the agent is back, and another pod get it. The link is of no use to anyone: ADD is
			// not called again in this sandbox. A DEL that succeeds removes it, up or down.
			setLinkDown(c.netns, c.ifName)
		}
		return nil, false, &failure{codeTryAgainLater, "berth-agent does not answer at " + c.socket + ": " + err.Error() +
			"; see whether the berth-agent pod of this node is running and ready", ""}
	case code == 200, code == StatusRun:
		return reply, code == StatusRun, nil
	}
	if f := readFailure(reply); f != nil {
		return nil, false, f
	}
	return nil, false, malformed(path, "a CNI error", errors.New("HTTP status "+strconv.Itoa(code)), reply)
}

// request is a delegate.Request.
func (c *call) request(mac string) []byte {
	out := make([]byte, 0, len(c.stdin)+len(c.args)+512)
	for _, m := range []struct{ name, value string }{
		{`{"containerID":`, c.containerID}, {`,"netns":`, c.netns}, {`,"ifName":`, c.ifName}, {`,"args":`, c.args}, {`,"mac":`, mac},
	} {
		out = quote(append(out, m.name...), m.value)
	}
	out = append(out, `,"config":`...)
	out = append(out, c.stdin...)
	return append(c.outcomes(out), '}')
}

// malformed is most likely something else at the socket, or an agent of another version.
func malformed(path, what string, err error, reply []byte) *failure {
	return &failure{codeDecoding, "berth-agent answered " + path + " with something that is not " + what + ": " + err.Error() +
		"; see whether plugin and agent are of one version", string(reply[:min(len(reply), 500)])}
}
