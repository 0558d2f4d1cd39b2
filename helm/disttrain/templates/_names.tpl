{{/* Names and labels. */}}

{{- define "disttrain.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters, so that every suffix of ours still makes a valid name. */}}
{{- define "disttrain.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "disttrain.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "disttrain.selectorLabels" -}}
app.kubernetes.io/name: {{ include "disttrain.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "disttrain.operatorSelector" -}}
{{ include "disttrain.selectorLabels" . }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "disttrain.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "disttrain.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "disttrain.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "disttrain.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "disttrain.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Without rights; where accounts are made by somebody else, the namespace's default one. */}}
{{- define "disttrain.testAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- include "disttrain.fullname" . }}-test
{{- else -}}
default
{{- end }}
{{- end }}

{{/* ClusterRoles have no namespace: two releases of one name in two namespaces must not share them. */}}
{{- define "disttrain.clusterRoleName" -}}
{{ .Release.Namespace }}-{{ include "disttrain.fullname" . }}
{{- end }}

{{- define "disttrain.streamService" -}}
{{ include "disttrain.fullname" . }}-stream
{{- end }}

{{- define "disttrain.metricsService" -}}
{{ include "disttrain.fullname" . }}-metrics
{{- end }}

{{- define "disttrain.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "disttrain.fullname" .)) }}
{{- end }}

{{- define "disttrain.leaseName" -}}
{{- .Values.leaderElection.leaseName | default (include "disttrain.fullname" .) }}
{{- end }}
