#!/bin/bash
# The node's first process: it builds the node's file tree, network and settings in the fresh
# namespaces it was started in, then keeps every component running.
#
# From the environment: ROOTFS, KUBERNETES and ADDONS (artefacts, read only), STATE (this cluster's
# directory), CONF (the directory of this script), CGROUPS (version 1 mount options, separated by
# spaces; empty for version 2) and NODE, NODE_IP (the node's name and address).
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

# --- File tree: the artefact below, memory above; only what must persist lies on disk. ----------
ROOT=$STATE/root/merged
mount -t tmpfs -o mode=755 root "$STATE/root"
mkdir "$STATE"/root/{upper,work,merged}
mount -t overlay -o "lowerdir=$ROOTFS,upperdir=$STATE/root/upper,workdir=$STATE/root/work" root "$ROOT"
bind() {
  mkdir -p "$1" "$ROOT$2"
  mount --bind "$1" "$ROOT$2"
}
bind "$KUBERNETES/bin" /opt/kubernetes
bind "$ADDONS/bin" /opt/addons
bind "$CONF" /opt/conf
bind "$STATE/pki" /etc/kubernetes/pki
bind "$STATE/logs" /var/log/devcluster
bind "$STATE/containerd" /var/lib/containerd
for directory in etcd kubelet volumes; do bind "$STATE/data/$directory" "/var/lib/$directory"; done
mount -t proc proc "$ROOT/proc"
mount -t sysfs sysfs "$ROOT/sys"
mount --rbind /dev "$ROOT/dev"
mount --make-rslave "$ROOT/dev"
mount -t tmpfs -o mode=755 run "$ROOT/run"
mount -t tmpfs -o mode=1777 tmp "$ROOT/tmp"
if [ -n "$CGROUPS" ]; then
  mount -t tmpfs -o mode=755 cgroup "$ROOT/sys/fs/cgroup"
  for options in $CGROUPS; do
    name=${options#none,name=}
    mkdir "$ROOT/sys/fs/cgroup/$name"
    mount -t cgroup -o "$options" cgroup "$ROOT/sys/fs/cgroup/$name"
    for single in ${name//,/ }; do
      [ -e "$ROOT/sys/fs/cgroup/$single" ] || ln -s "$name" "$ROOT/sys/fs/cgroup/$single"
    done
  done
else
  # A group that hands controllers on may hold no process of its own: move into a leaf first.
  mount -t cgroup2 cgroup "$ROOT/sys/fs/cgroup"
  mkdir -p "$ROOT/sys/fs/cgroup/init"
  while read -r pid; do echo "$pid" > "$ROOT/sys/fs/cgroup/init/cgroup.procs" || true; done \
    < "$ROOT/sys/fs/cgroup/cgroup.procs"
  sed 's/\w\+/+&/g' "$ROOT/sys/fs/cgroup/cgroup.controllers" > "$ROOT/sys/fs/cgroup/cgroup.subtree_control"
fi
mkdir "$ROOT/oldroot"
cd "$ROOT"
pivot_root . oldroot
cd /
umount -l /oldroot
mount --make-rshared /

# --- Identity, settings and network: all inside these namespaces. --------------------------------
echo "$NODE" > /proc/sys/kernel/hostname
tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
# The kubelet insists on three settings that belong to the whole machine. It is shown files with the
# values it wants; the machine keeps its own.
mkdir -p /run/sysctl
wanted() {
  echo "$2" > "/run/sysctl/${1//\//-}"
  mount --bind "/run/sysctl/${1//\//-}" "/proc/sys/$1"
}
wanted vm/overcommit_memory 1
wanted kernel/panic 10
wanted kernel/panic_on_oops 1
# The node's address is on a link of which both ends are in here: no way leads out.
ip link set lo up
ip link add eth0 type veth peer name eth0-peer
ip link set eth0-peer up
ip link set eth0 up
ip addr add "$NODE_IP/24" dev eth0
ip route add default via "${NODE_IP%.*}.1" dev eth0
sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
printf '127.0.0.1 localhost\n%s %s\n' "$NODE_IP" "$NODE" > /etc/hosts
printf 'nameserver 127.0.0.1\noptions timeout:1\n' > /etc/resolv.conf
mkdir -p /etc/cni/net.d /run/components
cp /opt/conf/cni.conflist /etc/cni/net.d/10-devcluster.conflist

# --- Components: each is restarted a second after it ends. ---------------------------------------
export PATH=/opt/kubernetes:/opt/addons:$PATH
LOGS=/var/log/devcluster
PKI=/etc/kubernetes/pki
start() {
  local name=$1
  shift
  (
    while :; do
      "$@" >> "$LOGS/$name.log" 2>&1 &
      echo $! > "/run/components/$name"
      wait $! && code=0 || code=$?
      echo "$name ended with exit code $code" | tee -a "$LOGS/restarts.log" >> "$LOGS/$name.log"
      sleep 1
    done
  ) &
}
ready() { kubectl --kubeconfig $PKI/admin.conf get --raw /readyz > /dev/null 2>&1; }

start containerd containerd --config /opt/conf/containerd.toml
# Losing the last seconds in a power cut is fine for a development cluster; waiting for disks is not.
start etcd etcd --name node --data-dir /var/lib/etcd/data --unsafe-no-fsync \
  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
  --initial-cluster node=http://127.0.0.1:2380
start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
  --secure-port=6443 --bind-address=0.0.0.0 --advertise-address="$NODE_IP" \
  --tls-cert-file=$PKI/apiserver.crt --tls-private-key-file=$PKI/apiserver.key \
  --client-ca-file=$PKI/ca.crt \
  --kubelet-client-certificate=$PKI/kubelet-client.crt --kubelet-client-key=$PKI/kubelet-client.key \
  --kubelet-preferred-address-types=InternalIP \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-key-file=$PKI/sa.pub --service-account-signing-key-file=$PKI/sa.key \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
  --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true

# Containers of an earlier cluster may be left beside the images that we keep. When the cluster's own
# memory of them is gone (FRESH), they go too, and containerd starts over without them.
until ctr version > /dev/null 2>&1; do sleep 0.05; done
if [ "$FRESH" = 1 ] && containers=$(ctr -n k8s.io containers ls -q) && [ -n "$containers" ]; then
  # shellcheck disable=SC2086
  ctr -n k8s.io containers rm $containers >> "$LOGS/containerd.log" 2>&1 || true
  kill "$(cat /run/components/containerd)"
  sleep 0.2
  until ctr version > /dev/null 2>&1; do sleep 0.05; done
fi
touch /run/components/containerd.ready

# The controller manager gives up for good when the bootstrap roles are not there yet: wait. Its own
# limit on requests per second would stretch its start by four seconds: nobody shares this server.
until ready; do sleep 0.1; done
start kube-controller-manager kube-controller-manager --kubeconfig=$PKI/controller-manager.conf \
  --authentication-kubeconfig=$PKI/controller-manager.conf \
  --authorization-kubeconfig=$PKI/controller-manager.conf \
  --service-account-private-key-file=$PKI/sa.key --root-ca-file=$PKI/ca.crt \
  --use-service-account-credentials --cluster-cidr=10.244.0.0/16 --allocate-node-cidrs=true \
  --cluster-signing-cert-file=$PKI/ca.crt --cluster-signing-key-file=$PKI/ca.key \
  --leader-elect=false --kube-api-qps=500 --kube-api-burst=1000
start kube-scheduler kube-scheduler --kubeconfig=$PKI/scheduler.conf \
  --authentication-kubeconfig=$PKI/scheduler.conf --authorization-kubeconfig=$PKI/scheduler.conf \
  --leader-elect=false
start kubelet kubelet --config=/opt/conf/kubelet.yaml --kubeconfig=$PKI/node.conf \
  --node-ip="$NODE_IP" --hostname-override="$NODE"
start kube-proxy kube-proxy --config=/opt/conf/kube-proxy.yaml
start provisioner provisioner -kubeconfig=$PKI/provisioner.conf -root=/var/lib/volumes

# As the first process it must stay, and reap whatever ends.
while :; do wait || true; sleep 1; done
