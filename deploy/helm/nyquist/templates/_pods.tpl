{{/* What the templates share. Those of labels take a list: the root, and the end of the name. */}}

{{- define "labels" -}}
app.kubernetes.io/name: nyquist{{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{- define "metadata" -}}
name: {{ (index . 0).Release.Name }}{{ index . 1 }}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "labels" (list (index . 0) (index . 2)) | nindent 2 }}
{{- end }}

{{- define "pod" -}}
serviceAccountName: {{ .Release.Name }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "terminationGracePeriodSeconds" -}}
{{ add .preStopSeconds .drainSeconds .graceSeconds 5 }}
{{- end }}

{{- define "locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A container that builds the models: a list of the root and of its request of the processor. */}}
{{- define "build" -}}
{{- $ := index . 0 -}}
- name: models
  image: {{ $.Values.images.companion }}
  imagePullPolicy: {{ $.Values.images.pullPolicy }}
  args: {{ concat (list "build" "--output" "/models") (empty $.Values.models.only | ternary (list) (concat (list "--only") $.Values.models.only)) | toJson }}
  securityContext:
    {{- include "locked" $ | nindent 4 }}
  resources:
    requests: {cpu: {{ index . 1 | quote }}, memory: 1Gi}
    limits: {cpu: "2", memory: 2Gi}
  volumeMounts:
    - {name: models, mountPath: /models}
    - {name: report, mountPath: /models_report}
    - {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "volumes" -}}
{{- $source := .Values.models.source -}}
{{- if eq $source "build" -}}
- {name: models, emptyDir: {}}
- {name: report, emptyDir: {}}
{{- else if eq $source "claim" -}}
- name: models
  persistentVolumeClaim: {claimName: {{ .Release.Name }}-models, readOnly: true}
{{- else -}}
- name: models
  image: {reference: {{ .Values.models.image | quote }}, pullPolicy: {{ .Values.images.pullPolicy }}}
{{- end }}
- {name: tmp, emptyDir: {sizeLimit: 256Mi}}
{{- end }}
