# SPDX-License-Identifier: Apache-2.0

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export KUBECONFIG=/etc/kubernetes/kubelet.kubeconfig
PS1='\u@\h:\w# '
