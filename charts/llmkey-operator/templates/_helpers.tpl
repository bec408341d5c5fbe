{{- define "llmkey-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* Name of every object; leaves room for endings such as -target-secrets. */}}
{{- define "llmkey-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains (include "llmkey-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "llmkey-operator.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "llmkey-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "llmkey-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: with serviceAccount.create=false name an existing one" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "llmkey-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "llmkey-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The drain's pod is none of the Deployment's, the Service's or the budget's. */}}
{{- define "llmkey-operator.drainLabels" -}}
app.kubernetes.io/name: {{ include "llmkey-operator.name" . }}-drain
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: llmkey-operator
{{- end }}

{{- define "llmkey-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{ include "llmkey-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: llmkey-operator
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "llmkey-operator.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{/* "true" where the operator serves the namespaces of rbac.namespaces only; what does not fit together is refused. */}}
{{- define "llmkey-operator.namespaced" -}}
{{- if eq .Values.rbac.scope "namespaces" -}}
{{- if not .Values.rbac.namespaces }}
{{- fail "rbac.namespaces: with rbac.scope=namespaces name the namespaces that have LLMKeys" }}
{{- end }}
{{- if has .Release.Namespace .Values.rbac.namespaces }}
{{- fail "rbac.namespaces: an LLMKey in the operator's own namespace does not work; leave that namespace out" }}
{{- end }}
{{- if and .Values.crds.enabled (not .Values.crds.keep) }}
{{- fail "crds.keep: with rbac.scope=namespaces nobody could tell whether LLMKeys exist elsewhere before their CRD goes; keep the CRDs" }}
{{- end -}}
true
{{- else if .Values.rbac.namespaces }}
{{- fail "rbac.namespaces: only with rbac.scope=namespaces" }}
{{- end }}
{{- end }}
