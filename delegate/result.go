package delegate

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// InVersionOf gives a result in the version of the specification that a network configuration asks for; without one, as it is.
func InVersionOf(config []byte, res *types100.Result) (types.Result, error) {
	var c struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	if c.CNIVersion == "" {
		return res, nil
	}
	out, err := res.GetAsVersion(c.CNIVersion)
	if err != nil {
		return nil, fmt.Errorf("network configuration: cniVersion %q: %w", c.CNIVersion, err)
	}
	return out, nil
}
