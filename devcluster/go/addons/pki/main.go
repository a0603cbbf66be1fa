// Command pki makes a certificate authority and the certificates it signs, in one directory: it
// reads a JSON list of subjects from stdin and writes NAME.crt and NAME.key for each, beside
// ca.crt, ca.key and the service accounts' sa.key and sa.pub.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"log"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

type subject struct {
	Name         string   `json:"name"`
	CommonName   string   `json:"commonName"`
	Organization []string `json:"organization"`
	DNS          []string `json:"dns"`
	IP           []net.IP `json:"ip"`
}

type authority struct {
	dir         string
	certificate *x509.Certificate
	key         crypto.Signer
	until       time.Time
}

func main() {
	dir := flag.String("dir", "", "where the files go")
	days := flag.Int("days", 3650, "how long the certificates hold")
	flag.Parse()
	var subjects []subject
	must(json.NewDecoder(os.Stdin).Decode(&subjects))
	ca := newAuthority(*dir, time.Now().AddDate(0, 0, *days))
	for _, s := range subjects {
		ca.issue(s)
	}
	accounts := newKey()
	writeKey(filepath.Join(*dir, "sa.key"), accounts)
	public := value(x509.MarshalPKIXPublicKey(accounts.Public()))
	write(filepath.Join(*dir, "sa.pub"), "PUBLIC KEY", public, 0o644)
}

func newAuthority(dir string, until time.Time) authority {
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "pitcrew-devcluster"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              until,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	key := newKey()
	ca := authority{dir: dir, certificate: template, key: key, until: until}
	ca.sign("ca", template, key)
	return ca
}

func (ca authority) issue(s subject) {
	ca.sign(s.Name, &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: s.CommonName, Organization: s.Organization},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     ca.until,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:     s.DNS,
		IPAddresses:  s.IP,
	}, newKey())
}

func (ca authority) sign(name string, template *x509.Certificate, key crypto.Signer) {
	der := value(x509.CreateCertificate(rand.Reader, template, ca.certificate, key.Public(), ca.key))
	write(filepath.Join(ca.dir, name+".crt"), "CERTIFICATE", der, 0o644)
	writeKey(filepath.Join(ca.dir, name+".key"), key)
}

func newKey() crypto.Signer {
	return value(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func serial() *big.Int {
	return value(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)))
}

func writeKey(path string, key crypto.Signer) {
	write(path, "PRIVATE KEY", value(x509.MarshalPKCS8PrivateKey(key)), 0o600)
}

func write(path, kind string, der []byte, mode os.FileMode) {
	must(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode))
}

func value[T any](v T, err error) T {
	must(err)
	return v
}

func must(err error) {
	if err != nil {
		log.Fatalf("pki: %v", err)
	}
}
