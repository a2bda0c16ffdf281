// Package apispec holds what checks the OpenAPI documents and makes clients from them: the generators are tools of this module,
// and what the generated clients import is required here, so that they are built without looking anything up.
package apispec

import (
	_ "github.com/go-openapi/errors"
	_ "github.com/go-openapi/runtime/client"
	_ "github.com/go-openapi/strfmt"
	_ "github.com/go-openapi/validate"
	_ "github.com/google/uuid"
	_ "github.com/oapi-codegen/runtime"
	_ "github.com/oapi-codegen/runtime/types"
	_ "github.com/stretchr/testify/require"
)
