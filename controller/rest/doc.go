// Package rest is the management API over HTTPS, for platforms that drive networks without kubectl: networks (a Subnet, its links and
// attachments), pools, fixed addresses, who has an address, what is free, what a carve would give.
//
// It has no users, no state and no rights of its own. Kubernetes says who asks (TokenReview) and whether he may (SubjectAccessReview, for
// all objects of a request before the first is touched). Everything is then read and written with the caller's own token, so that the
// API server authorises, admits and audits each request as his: an error here gives nobody more than his roles do. What is written
// is the object that kubectl would write, and the locks are the API server's; so each replica serves, led or not.
package rest
