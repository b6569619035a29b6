{{- define "netmon.selector" -}}
app.kubernetes.io/name: netmon
app.kubernetes.io/component: agent
{{- end }}

{{- define "netmon.labels" -}}
{{ include "netmon.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* The port of the agent's metrics, from its configuration. */ -}}
{{- define "netmon.port" -}}
{{ dig "export" "prometheus" "port" 9090 .Values.config | int }}
{{- end }}

{{- /* Not empty if agents watch interfaces in pods' namespaces. */ -}}
{{- define "netmon.podNamespaces" -}}
{{ if dig "capture" "pod_namespaces" false .Values.config }}true{{ end }}
{{- end }}
