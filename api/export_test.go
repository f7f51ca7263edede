package api

// OperationVerbs and QueryParameters are the tables that New installs guards from.
var (
	OperationVerbs  = operationVerbs
	QueryParameters = queryParameters
)
