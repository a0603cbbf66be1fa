{{/* Name of the chart, for labels. */}}
{{- define "pitcrew.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of this release's objects. */}}
{{- define "pitcrew.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "pitcrew.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "pitcrew.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that select the operator's pod. */}}
{{- define "pitcrew.selectorLabels" -}}
app.kubernetes.io/name: {{ include "pitcrew.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object of the chart. */}}
{{- define "pitcrew.labels" -}}
{{ include "pitcrew.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Service account of the operator. */}}
{{- define "pitcrew.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "pitcrew.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Full name of one image: (list $ "builder"). */}}
{{- define "pitcrew.image" -}}
{{- $root := index . 0 }}
{{- $image := index $root.Values.images (index . 1) }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{/* A bucket as the operator reads it: JSON, without what is left empty. */}}
{{- define "pitcrew.bucket" -}}
{{- $bucket := dict "bucket" .bucket }}
{{- range $name := list "prefix" "endpoint" "region" }}
{{- with index $ $name }}
{{- $_ := set $bucket $name . }}
{{- end }}
{{- end }}
{{- with .credentialsSecret }}
{{- $_ := set $bucket "credentialsSecretRef" (dict "name" .) }}
{{- end }}
{{- toJson $bucket }}
{{- end }}

{{/* What the operator may do, in a ClusterRole or in a Role of each served namespace. */}}
{{- define "pitcrew.rules" -}}
- apiGroups: [pitcrew.dev]
  resources: [llmengines, llmdeployments]
  verbs: [get, list, watch]
- apiGroups: [pitcrew.dev]
  resources: [llmengines/status, llmdeployments/status]
  verbs: [get, patch]
# Lets the owner references of children block their owners' foreground deletion, where the
# API server checks that.
- apiGroups: [pitcrew.dev]
  resources: [llmengines/finalizers, llmdeployments/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Replicas of several pods, where the LeaderWorkerSet controller is installed.
- apiGroups: [leaderworkerset.x-k8s.io]
  resources: [leaderworkersets]
  verbs: [get, list, watch, create, patch, delete]
# Routing by load, where the Gateway API Inference Extension is installed.
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# Prompts that an LLMEngine names; nothing else is read from ConfigMaps.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
