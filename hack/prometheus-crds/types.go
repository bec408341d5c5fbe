// Package crds keeps the types whose definitions are generated among this module's needs.
package crds

import _ "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
