package agent

import (
	"fmt"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// hostLinks reads links of the node.
type hostLinks interface {
	// VLAN that a link is (IEEE 802.1Q); 0 for one of another type. Over is the VLAN that its tagged frames are in again; 0 for none.
	VLAN(name string) (vlan, over int32, err error)
}

// masterOf an interface: the host link that a main plugin makes it of; "" and why, if none is known.
func masterOf(conf *delegate.Config) (name, why string, err error) {
	const remedy = "use macvlan or ipvlan with a master on that VLAN, such as bond0.910"
	switch {
	case conf.LinkInContainer:
		return "", "the interface's parent is in the pod's own namespace; " + remedy, nil
	case conf.Type == "bridge" || conf.Type == "ptp":
		return "", fmt.Sprintf("the interface is of type %s, which has no parent link; %s", conf.Type, remedy), nil
	case conf.Parent != "":
		return conf.Parent, "", nil
	case conf.Type == "macvlan" || conf.Type == "ipvlan":
		name, err = defaultRouteLink()
		return name, "", err
	}
	return "", fmt.Sprintf("the network configuration (type %s) names no master; %s", conf.Type, remedy), nil
}

// vlanOf the parent of an interface, as the link itself says, else as the node's annotation does.
func (a *Agent) vlanOf(conf *delegate.Config) (ipam.Parent, error) {
	name, why, err := masterOf(conf)
	if err != nil || name == "" {
		return ipam.Parent{Why: why}, err
	}
	vlan, over, err := a.links.VLAN(name)
	switch {
	case err != nil:
		return ipam.Parent{Name: name, Why: fmt.Sprintf("the interface's parent is not known: %v", err)}, nil
	case over != 0:
		return ipam.Parent{Name: name, Why: fmt.Sprintf("the interface's parent %s is VLAN %d within VLAN %d; name a master that is the VLAN alone, such as bond0.910",
			name, vlan, over)}, nil
	case vlan != 0:
		return ipam.Parent{Name: name, VLAN: vlan}, nil
	}
	text, ok := a.pods.thisNode().Annotations[nad.AccessVLANsAnnotation]
	access := map[string]int32{}
	if ok {
		if access, err = nad.ParseAccessVLANs(text); err != nil {
			return ipam.Parent{Name: name, Why: fmt.Sprintf("the interface's parent %s is no VLAN link; %v", name, err)}, nil
		}
	}
	if vlan = access[name]; vlan != 0 {
		return ipam.Parent{Name: name, VLAN: vlan}, nil
	}
	return ipam.Parent{Name: name, Why: fmt.Sprintf("the interface's parent %s is no VLAN link; name a master that is, such as %s.910, or say of an access port which VLAN it is on: node annotation %s: \"%s=910\"",
		name, name, nad.AccessVLANsAnnotation, name)}, nil
}

// kernelLinks asks the kernel.
type kernelLinks struct{}

func (kernelLinks) VLAN(name string) (vlan, over int32, err error) { return path.VLANOf(name) }
