package plugin

import (
	"io"
	"os"
	"strings"
	"time"
)

// How long a delegate may run. A DHCP client says that there is no server after some 10 s (its "timeout"). The kubelet gives up after
// 2 min, in which the plan may have to go on to another pool.
const (
	delegateTimeout = 40 * time.Second
	pipeTimeout     = time.Second // for what a delegate leaves behind that holds its stdout
)

// do runs the delegate with this process' environment and stderr (CNI spec 1.1.0, section 4).
//
// It is what pkg/invoke of the CNI library does (v1.3.1), without importing it: that brings OpenTelemetry and with it net/http, which
// cost each start of the plugin 0.7 ms and 3 MB of binary, whether it delegates or not. os/exec is 0.2 ms of it (measured with Go 1.26).
func (r *delegated) do() {
	out, f := r.exec(delegateTimeout)
	switch {
	case f != nil:
		r.failed = f
	case r.command != "ADD":
	case !members(out, func(string, []byte) {}):
		r.failed = &failure{codeDecoding, "it printed something that is no JSON object", string(out[:min(len(out), 500)])}
	default:
		r.result = out
	}
}

func (r *delegated) exec(timeout time.Duration) ([]byte, *failure) {
	path := find(r.typ, os.Getenv("CNI_PATH"))
	if r.absent = path == ""; r.absent {
		return nil, &failure{codeEnvironment, "there is no plugin " + r.typ + " in CNI_PATH (" + os.Getenv("CNI_PATH") + "); install it on this node", ""}
	}
	out, status, err := r.start(path, timeout)
	switch {
	case err != nil:
		return nil, &failure{codeTryAgainLater, err.Error(), ""}
	case status.Success():
		return out, nil
	}
	if f := readFailure(out); f != nil {
		return nil, f
	}
	return nil, &failure{codeInternal, status.String() + ", without a CNI error", strings.TrimSpace(string(out[:min(len(out), 500)]))}
}

// errDelegate is what went wrong with the process.
type errDelegate string

func (e errDelegate) Error() string { return string(e) }

// start the delegate, and wait until it has ended and its output is read. The error says that it was killed, or did not start.
func (r *delegated) start(path string, timeout time.Duration) (out []byte, status *os.ProcessState, err error) {
	stdin, config, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer config.Close()
	output, stdout, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return nil, nil, err
	}
	defer output.Close()
	p, err := os.StartProcess(path, []string{path}, &os.ProcAttr{Env: r.environment(os.Environ()), Files: []*os.File{stdin, stdout, os.Stderr}})
	stdin.Close()
	stdout.Close()
	if err != nil {
		return nil, nil, err
	}
	go func() {
		_, _ = config.Write(r.config) // a delegate need not read it
		config.Close()
	}()
	ended := make(chan struct{})
	var waitErr error
	go func() {
		status, waitErr = p.Wait()
		_ = output.SetReadDeadline(time.Now().Add(pipeTimeout))
		close(ended)
	}()
	timer := time.AfterFunc(timeout, func() { _ = p.Kill() })
	out, _ = io.ReadAll(io.LimitReader(output, maxReply+1)) // cut short by the deadline, it is what was printed until then
	if len(out) > maxReply {
		_ = p.Kill()
	}
	<-ended
	switch inTime := timer.Stop(); {
	case waitErr != nil:
		return nil, nil, waitErr
	case len(out) > maxReply:
		return nil, nil, errDelegate("it printed too much and was killed")
	case !inTime && !status.Success():
		return nil, nil, errDelegate("it did not end within " + timeout.String() + " and was killed")
	}
	return out, status, nil
}

// environment of the delegate: that of this process, with another command, and for a dead sandbox another interface.
func (r *delegated) environment(own []string) []string {
	set := map[string]string{"CNI_COMMAND": r.command}
	if r.containerID != "" {
		set["CNI_CONTAINERID"], set["CNI_IFNAME"], set["CNI_NETNS"] = r.containerID, r.ifName, ""
	}
	var env []string
	for _, kv := range own {
		name, _, _ := strings.Cut(kv, "=")
		if _, other := set[name]; !other {
			env = append(env, kv)
		}
	}
	for name, value := range set {
		env = append(env, name+"="+value)
	}
	return env
}

// find the binary of a plugin, as the runtime does; "" if there is none.
func find(name, list string) string {
	if strings.Contains(name, "/") {
		return ""
	}
	for _, dir := range strings.Split(list, ":") {
		path := dir + "/" + name
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}
