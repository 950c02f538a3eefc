package plugin

import (
	"strconv"
	"strings"
	"time"
)

// StatusRun is the HTTP status of an answer that is a list of delegates to be run.
const StatusRun = 202

// delegated is a delegate.Run, and what came of it.
type delegated struct {
	pool, typ, command, containerID, ifName, why string

	config []byte
	result []byte   // of an ADD
	failed *failure // nil: success
	absent bool     // there is no such plugin, so nothing was run
}

// maxPosts bounds how often a request is posted. Each delegate pool of a plan takes two posts at most.
const maxPosts = 64

// ask the agent and run what it says until it has its last word.
func (c *call) ask(path, mac string, timeout time.Duration) ([]byte, *failure) {
	for range maxPosts {
		reply, again, f := c.post(path, mac, timeout)
		if f != nil {
			return nil, c.undo(f)
		}
		if !again {
			return reply, nil
		}
		runs, ok := readRuns(reply)
		if !ok {
			return nil, c.undo(&failure{codeDecoding, "berth-agent answered " + path + " with something that is not a list of plugins to run" +
				"; see whether plugin and agent are of one version", string(reply[:min(len(reply), 500)])})
		}
		for _, r := range runs {
			r.do()
			c.ran = append(c.ran, r)
			if r.command == "ADD" && r.failed != nil { // CNI spec 1.1.0, section 4
				c.ran = append(c.ran, r.back("its ADD failed"))
			}
		}
	}
	return nil, c.undo(&failure{codeInternal, "berth: the agent asks for another plugin after " + strconv.Itoa(maxPosts) +
		" posts; this is a bug, please report it", ""})
}

// readRuns wants one or more, all of them of a plugin and a command.
func readRuns(reply []byte) (runs []*delegated, ok bool) {
	ok = elements(reply, func(one []byte) {
		r := &delegated{}
		runs = append(runs, r)
		members(one, func(name string, value []byte) {
			if name == `"config"` {
				r.config = value
				return
			}
			for _, m := range []struct {
				name string
				to   *string
			}{{`"pool"`, &r.pool}, {`"type"`, &r.typ}, {`"command"`, &r.command}, {`"containerID"`, &r.containerID}, {`"ifName"`, &r.ifName}, {`"why"`, &r.why}} {
				if name == m.name {
					*m.to, _ = text(value)
				}
			}
		})
	})
	for _, r := range runs {
		ok = ok && r.typ != "" && r.command != "" && r.config != nil
	}
	return runs, ok && len(runs) > 0
}

// outcomes is the member "ran" of a request.
func (c *call) outcomes(to []byte) []byte {
	for i, r := range c.ran {
		to = append(to, []string{`,"ran":[{`, `,{`}[min(i, 1)]...)
		for k, m := range []struct{ name, value string }{{"pool", r.pool}, {"type", r.typ}, {"command", r.command},
			{"containerID", r.containerID}, {"ifName", r.ifName}, {"why", r.why}} {
			if k > 0 {
				to = append(to, ',')
			}
			to = quote(append(quote(to, m.name), ':'), m.value)
		}
		if r.result != nil {
			to = append(append(to, `,"result":`...), r.result...)
		}
		if r.failed != nil {
			to = append(append(to, `,"error":`...), r.failed.json()...)
		}
		if r.absent {
			to = append(to, `,"absent":true`...)
		}
		to = append(to, '}')
	}
	if len(c.ran) > 0 {
		to = append(to, ']')
	}
	return to
}

// undo runs DEL of each delegate that has given something, since the verb fails; only ADD has any give.
func (c *call) undo(f *failure) *failure {
	last := map[string]*delegated{} // by pool, of ADD and DEL
	for _, r := range c.ran {
		last[r.pool] = r
	}
	for _, r := range c.ran {
		if r.command != "ADD" || last[r.pool] != r {
			continue
		}
		if back := r.back(f.msg); back.failed != nil {
			f.details = strings.TrimSpace(f.details + " (" + r.typ + " could not take back what it gave for pool " + r.pool + ": " + back.failed.msg +
				"; the DEL of the sandbox tries again)")
		}
	}
	return f
}

// back runs the DEL of an ADD.
func (r *delegated) back(why string) *delegated {
	del := *r
	del.command, del.why, del.result, del.failed = "DEL", why, nil, nil
	del.do()
	return &del
}
