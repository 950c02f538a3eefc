package delegate

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
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

// Main is the plugin: it does what CNI_COMMAND says and prints the result on stdout. The error is for its caller to print
// there. About is printed if there is no command.
func Main(about string) *types.Error {
	return run(skel.CNIFuncs{Add: add, Del: del, Check: check, Status: status, GC: gc}, about)
}

// run is skel with a recover, which skel lacks: a runtime that finds no error object on stdout cannot say what went wrong.
func run(funcs skel.CNIFuncs, about string) (err *types.Error) {
	defer func() {
		if r := recover(); r != nil {
			err = types.NewError(types.ErrInternal, fmt.Sprintf("berth: panic: %v; this is a bug, please report it", r), string(debug.Stack()))
		}
	}()
	// 0.1.0 and 0.2.0 are left out: their results have one address of each family and no scope of routes.
	versions := version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
	return skel.PluginMainFuncsWithError(funcs, versions, about)
}

func add(args *skel.CmdArgs) error {
	req := request(args)
	req.MAC = readMAC(args.Netns, args.IfName)
	reply, err := call(PathAdd, req, addTimeout)
	if err != nil {
		return err
	}
	var conf struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return types.NewError(types.ErrDecodingFailure, err.Error(), "")
	}
	result, err := parseResult(reply)
	if err != nil {
		return malformed(PathAdd, "a CNI result", err, reply)
	}
	if slices.ContainsFunc(result.IPs, func(ip *types100.IPConfig) bool { return ip.Address.IP.To4() == nil }) {
		useTentative(args.Netns, args.IfName)
	}
	return types.PrintResult(result, conf.CNIVersion)
}

// parseResult wants a result of version 1.x with an address, and nothing in it that would crash its conversion.
func parseResult(data []byte) (*types100.Result, error) {
	r, err := types100.NewResult(data)
	if err != nil {
		return nil, err
	}
	result := r.(*types100.Result)
	switch {
	case len(result.IPs) == 0:
		return nil, errors.New("it has no address")
	case slices.Contains(result.IPs, nil) || slices.Contains(result.Interfaces, nil) || slices.Contains(result.Routes, nil):
		return nil, errors.New("it has a null in a list")
	}
	return result, nil
}

func del(args *skel.CmdArgs) error {
	_, err := call(PathDel, request(args), delTimeout)
	return err
}

func check(args *skel.CmdArgs) error {
	_, err := call(PathCheck, request(args), checkTimeout)
	return err
}

func gc(args *skel.CmdArgs) error {
	_, err := call(PathGC, request(args), gcTimeout)
	return err
}

func status(args *skel.CmdArgs) error {
	_, err := call(PathStatus, request(args), statusTimeout)
	if e := (*types.Error)(nil); errors.As(err, &e) && e.Code == types.ErrTryAgainLater {
		// The only codes of STATUS are 50 and 51 (CNI spec 1.1.0, section "STATUS").
		return types.NewError(CodeNotAvailable, e.Msg, e.Details)
	}
	return err
}

func request(args *skel.CmdArgs) *Request {
	return &Request{
		ContainerID: args.ContainerID,
		NetNS:       args.Netns,
		IfName:      args.IfName,
		Args:        args.Args,
		Config:      args.StdinData,
	}
}

// call asks the agent. Its error is a *types.Error: the agent's own as it is, 11 if the agent is away, 6 if its answer
// makes no sense.
func call(path string, req *Request, timeout time.Duration) ([]byte, error) {
	socket, err := socketOf(req.Config)
	if err != nil && path != PathDel { // a DEL that can never succeed would keep a pod from ever going away
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("berth: ipam socket: %v", err), "")
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, types.NewError(types.ErrInternal, err.Error(), "")
	}
	code, reply, err := post(socket, path, body, timeout)
	switch {
	case errors.Is(err, errProtocol):
		return nil, malformed(path, "an answer", err, nil)
	case err != nil:
		if path == PathDel {
			// The main plugins take the link away only once IPAM has succeeded, so this error leaves it in the namespace of a
			// sandbox whose processes are dead, and the kernel goes on answering ARP and NDP for its address. The controller
			// may free that address before the agent is back, and another pod get it. The link is of no use to anyone: ADD is
			// not called again in this sandbox. A DEL that succeeds removes it, up or down.
			setLinkDown(req.NetNS, req.IfName)
		}
		return nil, types.NewError(types.ErrTryAgainLater, fmt.Sprintf("berth-agent does not answer at %s: %v; "+
			"see whether the berth-agent pod of this node is running and ready", socket, err), "")
	case code == 200:
		return reply, nil
	}
	var e types.Error
	if err := json.Unmarshal(reply, &e); err != nil || e.Code == 0 || e.Msg == "" {
		return nil, malformed(path, "a CNI error", fmt.Errorf("HTTP status %d", code), reply)
	}
	return nil, &e
}

// malformed is most likely something else at the socket, or an agent of another version.
func malformed(path, what string, err error, reply []byte) error {
	return types.NewError(types.ErrDecodingFailure, fmt.Sprintf("berth-agent answered %s with something that is not %s: %v; "+
		"see whether plugin and agent are of one version", path, what, err), fmt.Sprintf("%.500s", reply))
}

// socketOf looks up nothing but the socket. The agent reads the configuration, and says what is wrong with it.
func socketOf(config []byte) (string, error) {
	var c struct {
		IPAM struct {
			Socket string `json:"socket"`
		} `json:"ipam"`
	}
	c.IPAM.Socket = DefaultSocket
	if err := json.Unmarshal(config, &c); err != nil {
		return DefaultSocket, err
	}
	if c.IPAM.Socket == "" {
		return DefaultSocket, nil
	}
	return c.IPAM.Socket, nil
}
