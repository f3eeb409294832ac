// Controlplane is a Kubernetes control plane in one binary: etcd, kube-apiserver, kube-controller-manager and the stock kube-proxy,
// each started through its public entry point, as a pinned dependency of the end-to-end tests.
//
//	controlplane etcd --data-dir …
//	controlplane kube-apiserver --etcd-servers …
//	controlplane kube-controller-manager --kubeconfig …
//	controlplane kube-proxy --config …
//
// A symbolic link named after a component runs it without the subcommand.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kubeproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
)

var components = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy"}

func main() {
	args := os.Args
	if name := filepath.Base(args[0]); slices.Contains(components, name) {
		args[0] = name
	} else if len(args) > 1 {
		args = args[1:]
	} else {
		args = []string{""}
	}
	// The components read os.Args themselves.
	os.Args = args

	var command *cobra.Command
	switch args[0] {
	case "etcd":
		etcdmain.Main(args)
		return
	case "kube-apiserver":
		command = apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		command = controllermanager.NewControllerManagerCommand()
	case "kube-proxy":
		command = kubeproxy.NewProxyCommand()
	default:
		fmt.Fprintf(os.Stderr, "controlplane: unknown component %q, want one of %s\n", args[0], strings.Join(components, ", "))
		os.Exit(2)
	}
	os.Exit(cli.Run(command))
}
