// Command local-provisioner backs the cluster's default StorageClass: every claim gets a directory
// of its own below -root, and releasing the claim removes that directory again.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

const name = "pitcrew.dev/local"

type directories struct{ root string }

// Provision makes the directory and describes it as a volume of the node the scheduler chose.
func (d directories) Provision(_ context.Context, o controller.ProvisionOptions) (*v1.PersistentVolume, controller.ProvisioningState, error) {
	path := filepath.Join(d.root, o.PVName)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	// MkdirAll obeys the umask; any user of a pod may write, as with a fresh network volume.
	if err := os.Chmod(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	return volume(o, path), controller.ProvisioningFinished, nil
}

// Delete removes the directory, and refuses any path that Provision cannot have made.
func (d directories) Delete(_ context.Context, pv *v1.PersistentVolume) error {
	if pv.Spec.Local == nil || pv.Spec.Local.Path != filepath.Join(d.root, filepath.Base(pv.Name)) {
		return fmt.Errorf("volume %s is no directory of %s", pv.Name, d.root)
	}
	return os.RemoveAll(pv.Spec.Local.Path)
}

func volume(o controller.ProvisionOptions, path string) *v1.PersistentVolume {
	here := v1.NodeSelectorRequirement{
		Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{o.SelectedNodeName},
	}
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: o.PVName},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *o.StorageClass.ReclaimPolicy,
			AccessModes:                   o.PVC.Spec.AccessModes,
			MountOptions:                  o.StorageClass.MountOptions,
			Capacity: v1.ResourceList{
				v1.ResourceStorage: o.PVC.Spec.Resources.Requests[v1.ResourceStorage],
			},
			PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: path}},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{
				NodeSelectorTerms: []v1.NodeSelectorTerm{
					{MatchExpressions: []v1.NodeSelectorRequirement{here}},
				},
			}},
		},
	}
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	root := flag.String("root", "", "the directory that holds one directory for each volume")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		klog.Fatalf("kubeconfig %q: %v", *kubeconfig, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	client := kubernetes.NewForConfigOrDie(config)
	// One node and one process: nobody to elect a leader among.
	controller.NewProvisionController(ctx, client, name, directories{*root},
		controller.LeaderElection(false)).Run(ctx)
}
