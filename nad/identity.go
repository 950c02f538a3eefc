package nad

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation"
)

// checkName says what is wrong with the name of an identity. It has the form of an object's name (RFC 1123 subdomain), as that
// of an IPAMClaim has anyway.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("names no identity; write a name, or leave the annotation out")
	case len(validation.IsDNS1123Subdomain(name)) > 0:
		return fmt.Errorf("is no name of an identity: it has 1 to %d characters of a-z, 0-9, - and ., and a letter or a digit at both ends and beside each dot",
			validation.DNS1123SubdomainMaxLength)
	}
	return nil
}

// checkClaim of one interface only: another one's reference is a matter of its own IPAM plugin.
func checkClaim(i Interface, podAnnotations map[string]string) error {
	if i.Claim == "" || len(validation.IsDNS1123Subdomain(i.Claim)) == 0 {
		return nil
	}
	return annotationError("pod", i.said(), podAnnotations[i.said()],
		fmt.Errorf("has the ipam-claim-reference %q, which no IPAMClaim can have as its name; correct it", short(i.Claim)))
}
