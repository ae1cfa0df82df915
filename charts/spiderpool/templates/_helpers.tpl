{{/*
spiderpool.values: the values, completed by the chart's own defaults, as YAML.
"helm upgrade --reuse-values" keeps the values of the release as they were and adds no new defaults, so a template that
reads .Values directly breaks when a key is new. Every template starts with: $v := include "spiderpool.values" . | fromYaml
*/}}
{{- define "spiderpool.values" -}}
{{- mustMergeOverwrite (.Files.Get "defaults.yaml" | fromYaml) (deepCopy .Values) | toYaml -}}
{{- end -}}

{{/*
spiderpool.unimplemented: the given values that this chart does not implement, as JSON: {answers: [{value, given, answer, text}]}.
upstream-values.yaml says which they are.
*/}}
{{- define "spiderpool.unimplemented" -}}
{{- $answers := list -}}
{{- range $entry := (.Files.Get "upstream-values.yaml" | fromYaml).values -}}
{{- $given := $.Values -}}
{{- range $key := splitList "." $entry.value -}}
{{- if kindIs "map" $given -}}
{{- $given = index $given $key -}}
{{- else -}}
{{- $given = "" -}}
{{- end -}}
{{- end -}}
{{- $asks := not (or (kindIs "invalid" $given) (eq (toJson $given) "\"\"")) -}}
{{- range $quiet := $entry.quiet -}}
{{- if eq (toJson $quiet) (toJson $given) -}}
{{- $asks = false -}}
{{- end -}}
{{- end -}}
{{- if $asks -}}
{{- $answers = append $answers (dict "value" $entry.value "given" (toJson $given) "answer" $entry.answer "text" $entry.text) -}}
{{- end -}}
{{- end -}}
{{- dict "answers" $answers | toJson -}}
{{- end -}}

{{- define "spiderpool.name" -}}
{{- $v := include "spiderpool.values" . | fromYaml -}}
{{- default .Chart.Name $v.global.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* spiderpool.metadata: labels and annotations of every object. Takes {ctx, component, labels, annotations}. */}}
{{- define "spiderpool.metadata" -}}
{{- $v := include "spiderpool.values" .ctx | fromYaml -}}
labels:
  app.kubernetes.io/name: {{ include "spiderpool.name" .ctx }}
  app.kubernetes.io/instance: {{ .ctx.Release.Name }}
  app.kubernetes.io/component: {{ .component }}
  app.kubernetes.io/version: {{ .ctx.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .ctx.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .ctx.Chart.Name .ctx.Chart.Version | replace "+" "_" }}
{{- with merge (dict) (.labels | default dict) $v.global.commonLabels }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- with merge (dict) (.annotations | default dict) $v.global.commonAnnotations }}
annotations:
{{ toYaml . | indent 2 }}
{{- end }}
{{- end -}}

{{/* spiderpool.selector: what a component's pods are found by; it never changes between versions. Takes {ctx, component}. */}}
{{- define "spiderpool.selector" -}}
app.kubernetes.io/name: {{ include "spiderpool.name" .ctx }}
app.kubernetes.io/instance: {{ .ctx.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "spiderpool.podMetadata" -}}
labels:
{{ include "spiderpool.selector" . | indent 2 }}
{{- with merge (dict) (.labels | default dict) ((include "spiderpool.values" .ctx | fromYaml).global.commonLabels) }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- with merge (dict) (.annotations | default dict) ((include "spiderpool.values" .ctx | fromYaml).global.commonAnnotations) }}
annotations:
{{ toYaml . | indent 2 }}
{{- end }}
{{- end -}}

{{/*
spiderpool.image: the image's name. What the user set wins over release.yaml, key by key; a tag or digest of the user's drops
the digest there. Values that equal the defaults of chart 0.1.0, which "helm upgrade --reuse-values" brings along, are nobody's
wish: no image was ever published under that name.
*/}}
{{- define "spiderpool.image" -}}
{{- $v := include "spiderpool.values" . | fromYaml -}}
{{- $release := .Files.Get "release.yaml" | fromYaml -}}
{{- $image := $v.image -}}
{{- if and (eq $image.registry "ghcr.io") (eq $image.repository "spidernet-io/spiderpool/spiderpool") (not $image.tag) (not $image.digest) -}}
{{- $image = dict "registry" "" "repository" "" "tag" "" "digest" "" -}}
{{- end -}}
{{- $registry := default $release.registry $image.registry -}}
{{- $override := $v.global.imageRegistryOverride -}}
{{- if not (or $registry $override) -}}
{{- fail "\n\nimage.registry is empty: this chart comes from the source tree, and no registry has an image that it could name.\nBuild and push one, and install the chart that is packaged for it:\n\n  make release REGISTRY=registry.example.com/me VERSION=v0.2.0\n\nor, if your registry has the image already, say where, and the tag that `make push` printed:\n\n  --set image.registry=registry.example.com/me,image.tag=v0.2.0\n\n(global.imageRegistryOverride replaces the registry's host).\n" -}}
{{- end -}}
{{- $name := printf "%s/%s" (default $override $registry) (default (default "spiderpool" $release.repository) $image.repository) -}}
{{- if and $override $registry -}}
{{- $parts := splitList "/" $name -}}
{{- $name = join "/" (prepend (rest $parts) $override) -}}
{{- end -}}
{{- $digest := default (ternary "" $release.digest (ne $image.tag "")) $image.digest -}}
{{- if $digest -}}
{{- printf "%s@%s" $name $digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default (default .Chart.AppVersion $release.tag) $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "spiderpool.pullSecrets" -}}
{{- with (include "spiderpool.values" . | fromYaml).image.pullSecrets -}}
imagePullSecrets:
{{ toYaml . | indent 2 }}
{{- end -}}
{{- end -}}

{{/* spiderpool.env: the environment that every process has. */}}
{{- define "spiderpool.env" -}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: MEMORY_LIMIT_BYTES
  valueFrom: {resourceFieldRef: {resource: limits.memory}}
{{- end -}}

{{/* spiderpool.unprivileged: the security context of every process but the agent. */}}
{{- define "spiderpool.unprivileged" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* spiderpool.probes: startup, readiness and liveness. Takes {host, port}; an empty host is the pod's address. */}}
{{- define "spiderpool.probes" -}}
{{- range $probe, $timing := dict "startup" (dict "periodSeconds" 2 "failureThreshold" 90) "readiness" (dict "periodSeconds" 5 "failureThreshold" 3) "liveness" (dict "periodSeconds" 10 "failureThreshold" 6) }}
{{ $probe }}Probe:
  httpGet:
    {{- with $.host }}
    host: {{ . }}
    {{- end }}
    path: /v1/runtime/{{ $probe }}
    port: {{ $.port | int }}
  timeoutSeconds: 5
{{ toYaml $timing | indent 2 }}
{{- end }}
{{- end -}}
