package delegate

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// ConfigFor is the network configuration for a delegate: that of Berth, complete, with an ipam section of the delegate's type and
// config (CNI spec 1.1.0, section 4). Its name, which many IPAM plugins keep their addresses by, stays; what is for GC alone does not.
func ConfigFor(config json.RawMessage, typ string, ipam json.RawMessage) (json.RawMessage, error) {
	section := map[string]json.RawMessage{}
	if len(ipam) > 0 {
		if err := json.Unmarshal(ipam, &section); err != nil {
			return nil, fmt.Errorf("config of the delegate %s is no object: %w", typ, err)
		}
	}
	var err error
	if section["type"], err = json.Marshal(typ); err != nil {
		return nil, err
	}
	return with(config, "ipam", section, validAttachments)
}

const validAttachments = "cni.dev/valid-attachments"

// WithAttachments is a network configuration for GC with these attachments as valid.
func WithAttachments(config json.RawMessage, valid []types.GCAttachment) (json.RawMessage, error) {
	return with(config, validAttachments, valid)
}

// with a key set, and others dropped.
func with(config json.RawMessage, key string, value any, drop ...string) (json.RawMessage, error) {
	var conf map[string]json.RawMessage
	if err := json.Unmarshal(config, &conf); err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	if conf == nil {
		return nil, errors.New("network configuration: it is null")
	}
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	for _, k := range drop {
		delete(conf, k)
	}
	conf[key] = data
	return json.Marshal(conf)
}

// ParseResult reads what a delegate printed at ADD, in the version that it says, or that of the configuration.
func ParseResult(cniVersion string, data []byte) (*types100.Result, error) {
	var raw map[string]any
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	if v, ok := raw["cniVersion"].(string); ok && v != "" {
		cniVersion = v
	}
	res, err := prevResult(cniVersion, raw)
	switch {
	case err != nil:
		return nil, err
	case res == nil || len(res.IPs) == 0:
		return nil, errors.New("it has no address")
	}
	return res, nil
}
