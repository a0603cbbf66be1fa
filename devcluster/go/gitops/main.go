// gitops answers as Argo CD and Flux do, by their own code: how healthy resources are, and in which order
// they are applied. It reads a live cluster; what it asks Argo CD's settings is read from a live argocd-cm.
//
//	gitops health ARGOCD-NAMESPACE NAMESPACE               the health of every resource of Pitcrew
//	gitops sync ARGOCD-NAMESPACE NAMESPACE < manifests     apply them in their waves, as Argo CD syncs
//	gitops diff ARGOCD-NAMESPACE NAMESPACE < manifests     which of them Argo CD takes for out of sync
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/cache"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/diff"
	argo "github.com/argoproj/argo-cd/gitops-engine/pkg/health"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync/common"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/tracing"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/argo-cd/v3/util/settings"
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const usage = "usage: gitops health|sync|diff ARGOCD-NAMESPACE NAMESPACE"

var resources = map[string]string{"LLMEngine": "llmengines", "LLMDeployment": "llmdeployments"}

func resource(kind string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "pitcrew.dev", Version: "v1alpha1", Resource: resources[kind]}
}

func main() {
	logrus.SetOutput(io.Discard)
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, words []string) error {
	if len(words) != 3 {
		return fmt.Errorf(usage)
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	rules, err := rules(ctx, config, words[1])
	if err != nil {
		return err
	}
	switch words[0] {
	case "health":
		return health(ctx, config, words[2], rules)
	case "sync":
		return apply(config, words[2], rules)
	case "diff":
		return compare(ctx, config, words[2])
	}
	return fmt.Errorf(usage)
}

// rules are the health rules that the Argo CD of a namespace goes by.
func rules(ctx context.Context, config *rest.Config, namespace string) (lua.ResourceHealthOverrides, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	overrides, err := settings.NewSettingsManager(ctx, client, namespace).GetResourceOverrides()
	return lua.ResourceHealthOverrides(overrides), err
}

type answer struct {
	Argo        string `json:"argo"`
	ArgoMessage string `json:"argoMessage"`
	Flux        string `json:"flux"`
	FluxMessage string `json:"fluxMessage"`
}

// health prints an answer for each resource, by its kind and name.
func health(ctx context.Context, config *rest.Config, namespace string, rules argo.HealthOverride) error {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	answers := map[string]answer{}
	for kind := range resources {
		found, err := client.Resource(resource(kind)).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, object := range found.Items {
			if answers[object.GetKind()+"/"+object.GetName()], err = ask(&object, rules); err != nil {
				return err
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

func ask(object *unstructured.Unstructured, rules argo.HealthOverride) (answer, error) {
	said, err := argo.GetResourceHealth(object, rules)
	if err != nil {
		return answer{}, err
	}
	if said == nil { // Argo CD leaves such resources out of an application's health
		said = &argo.HealthStatus{}
	}
	flux, err := status.Compute(object)
	if err != nil {
		return answer{}, err
	}
	return answer{string(said.Status), said.Message, flux.Status.String(), flux.Message}, nil
}

// apply syncs the manifests of standard input, and prints what became of each.
func apply(config *rest.Config, namespace string, rules argo.HealthOverride) error {
	wanted, err := manifests()
	if err != nil {
		return err
	}
	seen := cache.NewClusterCache(config,
		cache.SetNamespaces([]string{namespace}),
		cache.SetPopulateResourceInfoHandler(func(*unstructured.Unstructured, bool) (any, bool) { return nil, true }),
	)
	if err := seen.EnsureSynced(); err != nil {
		return err
	}
	defer seen.Invalidate()
	state := state{phase: common.OperationRunning, since: metav1.Now()}
	for deadline := time.Now().Add(5 * time.Minute); !state.phase.Completed(); time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			return fmt.Errorf("not synced in time: %s", state.message)
		}
		if err := state.step(config, seen, wanted, namespace, rules); err != nil {
			return err
		}
	}
	return report(state)
}

// state is what Argo CD records of a sync in the Application's status, from one look to the next.
type state struct {
	phase   common.OperationPhase
	message string
	results []common.ResourceSyncResult
	since   metav1.Time
}

// step is one look of Argo CD's controller at a sync that goes on.
func (s *state) step(config *rest.Config, seen cache.ClusterCache, wanted []*unstructured.Unstructured, namespace string, rules argo.HealthOverride) error {
	ours := func(found *cache.Resource) bool {
		return strings.HasPrefix(found.Ref.APIVersion, "pitcrew.dev/")
	}
	live, err := seen.GetManagedLiveObjs(wanted, ours)
	if err != nil {
		return err
	}
	kubectl := &kube.KubectlCmd{Log: logr.Discard(), Tracer: tracing.NopTracer{}}
	pairs := sync.Reconcile(wanted, live, namespace, seen)
	syncer, cleanup, err := sync.NewSyncContext("test", pairs, config, config, kubectl, namespace,
		sync.WithInitialState(s.phase, s.message, s.results, s.since),
		sync.WithHealthOverride(rules),
		sync.WithLogr(logr.Discard()),
	)
	if err != nil {
		return err
	}
	defer cleanup()
	syncer.Sync()
	s.phase, s.message, s.results = syncer.GetState()
	return nil
}

func manifests() ([]*unstructured.Unstructured, error) {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return nil, err
	}
	return kube.SplitYAML(text)
}

// compare prints, for each manifest of standard input, whether what lives differs from it.
func compare(ctx context.Context, config *rest.Config, namespace string) error {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	wanted, err := manifests()
	if err != nil {
		return err
	}
	differs := map[string]bool{}
	for _, one := range wanted {
		live, err := client.Resource(resource(one.GetKind())).Namespace(namespace).Get(ctx, one.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		found, err := diff.Diff(one, live, diff.WithLogr(logr.Discard()))
		if err != nil {
			return err
		}
		differs[one.GetKind()+"/"+one.GetName()] = found.Modified
	}
	return json.NewEncoder(os.Stdout).Encode(differs)
}

func report(state state) error {
	for _, result := range state.results {
		fmt.Printf("%s %s %s %s\n", result.ResourceKey.Kind, result.ResourceKey.Name, result.HookPhase, result.Message)
	}
	if !state.phase.Successful() {
		return fmt.Errorf("the sync ended as %s: %s", state.phase, state.message)
	}
	return nil
}
