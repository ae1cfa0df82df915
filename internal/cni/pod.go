// SPDX-License-Identifier: Apache-2.0

package cni

import "spidernet.io/spiderpool/internal/ipam"

// Pod is the pod of a call, as address management wants it. It is empty when a plugin was called
// without a pod.
type Pod = ipam.Pod
