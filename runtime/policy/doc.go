// Package policy says what a guest may do: Capabilities are the whole grant, and rules decide on top of it.
//
// Grant turns Capabilities into Grants, which host functions and the fetching side ask. Compile turns rules into a
// Policy, an interposer that judges host calls by their decoded arguments. Both report every problem at once, as *Error
// values that name the field and the place within it. Grants and Policy never change once made and may be shared.
//
// The package opens no files and dials nothing by itself; Transport dials for whoever performs a guest's fetches, and
// refuses addresses the grant does not cover at the moment of dialling.
package policy
