#!/bin/sh
# Podtrail's authority and its certificates by openssl, for clusters without cert-manager. Files go where it is run.
#
#   certificates.sh authority                    ca.pem and ca-key.pem: keep the key where no cluster is
#   certificates.sh collector [DNS-NAME|IP]...   the collector's, for its service's names and for these
#   certificates.sh agent CLUSTER NODE           one agent's, for nodes whose kubelets have none
#   certificates.sh reader PRINCIPAL             a reader's, of collector.toml
#   certificates.sh audit CLUSTER                the API servers'
#   certificates.sh secrets                      the collector's as a Secret, for `kubectl apply -f -`
#
# DAYS is for how long (90; the authority's: 3650). See docs/certificates.md.
set -eu
umask 077

fail() {
    echo "certificates.sh: $*" >&2
    exit 1
}

# A name within a URI: what would end it, or could be read in two ways, is not.
encoded() {
    case $1 in
    '' | *[!A-Za-z0-9._/-]*) fail "\"$1\" is no name: letters, digits, dots, dashes" ;;
    esac
    printf '%s' "$1" | sed 's,/,%2F,g'
}

key() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$1"
}

# issue FILE ALTERNATIVE-NAMES USAGE
issue() {
    [ -f ca-key.pem ] || fail "there is no ca-key.pem here: certificates.sh authority"
    key "$1-key.pem"
    openssl req -new -key "$1-key.pem" -subj "/CN=$1" -out "$1.csr"
    printf 'subjectAltName=%s\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n' \
        "$2" "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca-key.pem -days "${DAYS:-90}" -extfile "$1.ext" -out "$1.pem"
    rm "$1.csr" "$1.ext"
}

indented() {
    base64 <"$1" | tr -d '\n'
}

case ${1:-} in
authority)
    [ ! -e ca-key.pem ] || fail "ca-key.pem is here already, and what it signed would be worth nothing without it"
    key ca-key.pem
    openssl req -x509 -new -key ca-key.pem -days "${DAYS:-3650}" -subj "/CN=podtrail" \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" -out ca.pem
    ;;
collector)
    names="DNS:collector.podtrail,DNS:collector.podtrail.svc,DNS:collector.podtrail.svc.cluster.local"
    shift
    for name; do
        case $name in
        *:* | *[!0-9.]*) case $name in
            *:*) names="$names,IP:$name" ;;
            *) names="$names,DNS:$name" ;;
            esac ;;
        *) names="$names,IP:$name" ;;
        esac
    done
    issue collector "$names" serverAuth
    ;;
agent)
    [ $# = 3 ] || fail "agent CLUSTER NODE"
    cluster=$(encoded "$2")
    node=$(encoded "$3")
    issue agent "URI:podtrail://agent/$cluster/$node" clientAuth
    ;;
reader)
    [ $# = 2 ] || fail "reader PRINCIPAL"
    name=$(encoded "$2")
    issue "reader-$name" "URI:podtrail://reader/$name" clientAuth
    ;;
audit)
    [ $# = 2 ] || fail "audit CLUSTER"
    cluster=$(encoded "$2")
    issue kube-apiserver "URI:podtrail://audit/$cluster" clientAuth
    ;;
secrets)
    [ -f collector.pem ] || fail "there is no collector.pem here: certificates.sh collector"
    cat <<END
apiVersion: v1
kind: Secret
metadata:
  name: podtrail-collector-tls
  namespace: podtrail
type: kubernetes.io/tls
data:
  ca.crt: $(indented ca.pem)
  tls.crt: $(indented collector.pem)
  tls.key: $(indented collector-key.pem)
END
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
