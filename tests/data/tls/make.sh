#!/usr/bin/env bash
# Makes the certificates of this folder anew. They are for tests on loopback and guard nothing.
set -euo pipefail
cd "$(dirname "$0")"
authority() { # file, subject
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -keyout "$1.key" -out "$1.pem" -subj "$2" \
		-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
}
issue() { # file, authority, subject, extensions
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "$3"
	openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 36500 -out "$1.pem" \
		-extfile <(printf '%s\n' "$4")
}
authority ca /CN=kubernetes
authority other-ca /O=Somebody/CN=other-authority
for ca in ca other-ca; do
	name=server
	[ "$ca" = ca ] || name=other-server
	issue "$name" "$ca" /CN=kube-apiserver "$(printf 'subjectAltName=IP:127.0.0.1,DNS:kubernetes.test\nextendedKeyUsage=serverAuth')"
done
issue client ca "/O=system:nodes/CN=system:node:node-1" extendedKeyUsage=clientAuth
rm -f ./*.csr ./*.srl ca.key other-ca.key
