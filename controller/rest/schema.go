package rest

import (
	"encoding/json"
	"fmt"

	"github.com/danielgtaylor/huma/v2"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
)

// What the kinds have as spec and status is the same here as with kubectl, field by field, and so is its schema: that of the CRD. What a
// schema cannot say (CEL) the API server refuses.
type (
	SubnetSpec        v1alpha1.SubnetSpec
	SubnetStatus      v1alpha1.SubnetStatus
	HostNetworkSpec   v1alpha1.HostNetworkSpec
	HostNetworkStatus v1alpha1.HostNetworkStatus
	PoolSpec          v1alpha1.IPPoolSpec
	PoolStatus        v1alpha1.IPPoolStatus
	LeaseSpec         v1alpha1.IPLeaseSpec
)

// Schema implements huma.SchemaProvider.
func (SubnetSpec) Schema(r huma.Registry) *huma.Schema { return crd(r, "Subnet", "subnets", "spec") }

// Schema implements huma.SchemaProvider.
func (SubnetStatus) Schema(r huma.Registry) *huma.Schema {
	return crd(r, "Subnet", "subnets", "status")
}

// Schema implements huma.SchemaProvider.
func (HostNetworkSpec) Schema(r huma.Registry) *huma.Schema {
	return crd(r, "HostNetwork", "hostnetworks", "spec")
}

// Schema implements huma.SchemaProvider.
func (HostNetworkStatus) Schema(r huma.Registry) *huma.Schema {
	return crd(r, "HostNetwork", "hostnetworks", "status")
}

// Schema implements huma.SchemaProvider.
func (PoolSpec) Schema(r huma.Registry) *huma.Schema { return crd(r, "IPPool", "ippools", "spec") }

// Schema implements huma.SchemaProvider.
func (PoolStatus) Schema(r huma.Registry) *huma.Schema { return crd(r, "IPPool", "ippools", "status") }

// Schema implements huma.SchemaProvider.
func (LeaseSpec) Schema(r huma.Registry) *huma.Schema { return crd(r, "IPLease", "ipleases", "spec") }

// crd refers to a part of a kind's schema, which becomes a component of the document.
func crd(r huma.Registry, kind, plural, part string) *huma.Schema {
	name := kind + map[string]string{"spec": "Spec", "status": "Status"}[part]
	if _, ok := r.Map()[name]; !ok {
		data, err := v1alpha1.CRDs.ReadFile("crds/berth.dev_" + plural + ".yaml")
		if err != nil {
			panic(err) // the same files in each build
		}
		var c apiextensions.CustomResourceDefinition
		if err := yaml.Unmarshal(data, &c); err != nil {
			panic(fmt.Sprintf("%s: %v", plural, err))
		}
		s := schemaOf(c.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties[part])
		s.PrecomputeMessages()
		r.Map()[name] = s
	}
	return &huma.Schema{Ref: "#/components/schemas/" + name}
}

// schemaOf makes one of OpenAPI 3.1 from that of a CRD. Fields that the CRD does not have are refused, as kubectl does (strict field validation).
func schemaOf(p apiextensions.JSONSchemaProps) *huma.Schema {
	s := &huma.Schema{
		Type: p.Type, Format: p.Format, Description: p.Description, Pattern: p.Pattern, Required: p.Required,
		Minimum: p.Minimum, Maximum: p.Maximum,
		MinLength: count(p.MinLength), MaxLength: count(p.MaxLength), MinItems: count(p.MinItems), MaxItems: count(p.MaxItems),
		Default: value(p.Default),
	}
	for _, e := range p.Enum {
		s.Enum = append(s.Enum, value(&e))
	}
	if p.Items != nil && p.Items.Schema != nil {
		s.Items = schemaOf(*p.Items.Schema)
	}
	if p.Type != "object" {
		return s
	}
	s.AdditionalProperties = p.XPreserveUnknownFields != nil && *p.XPreserveUnknownFields
	if p.AdditionalProperties != nil && p.AdditionalProperties.Schema != nil {
		s.AdditionalProperties = schemaOf(*p.AdditionalProperties.Schema)
	}
	s.Properties = map[string]*huma.Schema{}
	for name, sub := range p.Properties {
		s.Properties[name] = schemaOf(sub)
	}
	return s
}

func count(n *int64) *int {
	if n == nil {
		return nil
	}
	i := int(*n)
	return &i
}

func value(j *apiextensions.JSON) (v any) {
	if j == nil {
		return nil
	}
	if err := json.Unmarshal(j.Raw, &v); err != nil {
		panic(err) // controller-gen writes JSON
	}
	return v
}
