package rest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
)

// certificate that the server shows: a file's, followed as it is renewed, or one made for this process.
type certificate struct {
	get   func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	watch func(context.Context) error // nil: nothing to follow
	// pin is the fingerprint of a certificate made here, in the form of curl --pinnedpubkey; "" for a file's.
	pin string
}

// newCertificate from tls.crt and tls.key in dir, as a Secret of type kubernetes.io/tls has them; without dir, or without these
// files in it, a self-signed one.
func newCertificate(dir, namespace string, now time.Time) (*certificate, error) {
	if dir != "" {
		cert, key := filepath.Join(dir, corev1.TLSCertKey), filepath.Join(dir, corev1.TLSPrivateKeyKey)
		_, errCert := os.Stat(cert)
		_, errKey := os.Stat(key)
		if !os.IsNotExist(errCert) || !os.IsNotExist(errKey) { // one of two is an error, and said as such
			w, err := certwatcher.New(cert, key)
			if err != nil {
				return nil, fmt.Errorf("--rest-cert-dir %s: %w; it takes tls.crt and tls.key in PEM, or neither", dir, err)
			}
			return &certificate{get: w.GetCertificate, watch: w.Start}, nil
		}
	}
	c, err := selfSigned(namespace, now)
	if err != nil {
		return nil, err
	}
	spki := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return &certificate{
		get: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c, nil },
		pin: "sha256//" + base64.StdEncoding.EncodeToString(spki[:]),
	}, nil
}

// selfSigned certificate for the names of the Service; its key never leaves the process.
func selfSigned(namespace string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	service := "berth-rest." + namespace + ".svc"
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: service},
		DNSNames:     []string{"berth-rest", "berth-rest." + namespace, service, service + ".cluster.local", "localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:    now.Add(-time.Hour), // clocks differ
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
