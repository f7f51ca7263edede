package api

// OperationVerbs is the table that New installs guards from.
var OperationVerbs = operationVerbs
