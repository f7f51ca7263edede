package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/ripstop-vm/ripstop/broker"
)

// Level says what of an acknowledged change survives on the server itself.
type Level string

const (
	// LevelNone: memory only, or snapshots now and then. Whatever was acknowledged since the last one is lost when the
	// process ends in disorder.
	LevelNone Level = "none"
	// LevelUnknown: the user may not run CONFIG GET, so it cannot be said.
	LevelUnknown Level = "unknown"
	// LevelSystem: appendfsync no. What was acknowledged survives the end of the process, not that of the machine: the system
	// writes it within about half a minute.
	LevelSystem Level = "system"
	// LevelSecond: appendfsync everysec. What was acknowledged survives the end of the process and a loss of power, but for about the
	// last second; two, when the disk is slow. The end of the process may take some, too: while the file is being synced, Redis
	// acknowledges before it writes.
	LevelSecond Level = "second"
	// LevelAlways: appendfsync always. What was acknowledged survives the end of the process and a loss of power.
	LevelAlways Level = "always"
)

// Durability is what an acknowledgement of a server survives.
type Durability struct {
	Server    string   // for people; it has no password
	Version   string   // of Redis
	Contracts []string // what is kept there: records, leases, blobs, queue, buckets
	Level     Level
	// Replicas is how many replicas have a change before it is acknowledged (WAIT), MinReplicas how many must be connected for
	// the server to accept one (min-replicas-to-write; -1 if that is not known). With both at least 1, most failovers lose
	// nothing; a few still do, as a replica that has a change need not be the one that is chosen.
	Replicas, MinReplicas int
	Cluster               bool // several servers; the weakest is told
}

// String is a line that says where, what and whether that survives.
func (d Durability) String() string {
	return d.Server + " (" + strings.Join(d.Contracts, ", ") + "): " + d.Promise()
}

// Promise says what of an acknowledged change survives.
func (d Durability) Promise() string {
	var text string
	switch d.Level {
	case LevelAlways:
		text = "survives the end of the process and a loss of power (appendfsync always)"
	case LevelSecond:
		text = "is lost for about the last second, two when the disk is slow, when the process is killed or power fails (appendfsync everysec)"
	case LevelSystem:
		text = "survives the end of the process; a loss of power takes about the last half minute (appendfsync no)"
	case LevelNone:
		text = "is lost when the process ends in disorder (appendonly no); set appendonly to yes"
	default:
		text = "survives nobody knows what: the user may not run CONFIG GET; allow it: +config|get"
	}
	switch {
	case d.Replicas > 0 && d.MinReplicas > 0:
		text += fmt.Sprintf("; %d replicas have it, so that most failovers lose nothing", d.Replicas)
	case d.Replicas > 0:
		text += fmt.Sprintf("; %d replicas have it, but a master that is cut off accepts more until it is replaced: set min-replicas-to-write", d.Replicas)
	default:
		text += "; a failover may lose what replicas do not have yet"
	}
	return "what is acknowledged " + text
}

// Levels are those that may be asked for, the most careful first.
func Levels() []Level { return []Level{LevelAlways, LevelSecond, LevelSystem, LevelNone} }

// ParseLevel reads the name of a level that may be asked for. It fails with broker.ErrInvalid.
func ParseLevel(name string) (Level, error) {
	for _, l := range Levels() {
		if string(l) == name {
			return l, nil
		}
	}
	return "", fmt.Errorf("durability %.40q: %w: it is always, second, system or none", name, broker.ErrInvalid)
}

// durability is what a server's settings say.
type durability struct {
	version     string
	level       Level
	minReplicas int
}

var levels = []Level{LevelNone, LevelUnknown, LevelSystem, LevelSecond, LevelAlways}

// weaker says that a server promises less than another.
func (d durability) weaker(than durability) bool {
	have, other := slices.Index(levels, d.level), slices.Index(levels, than.level)
	return have < other || have == other && d.minReplicas < than.minReplicas
}

// satisfies says what to set where less is promised than was asked for.
func (d durability) satisfies(opts Options, where string) error {
	bad := func(what, set string, args ...any) error {
		return fmt.Errorf("%s: %w: %s; %s; nothing was changed", where, ErrSettings, what, fmt.Sprintf(set, args...))
	}
	policy := map[Level]string{LevelAlways: "always", LevelSecond: "everysec", LevelSystem: "no"}
	switch {
	case opts.Require == "":
		return nil
	case opts.Require != LevelNone && d.level == LevelUnknown:
		return bad("what it acknowledges survives nobody knows what, as the user may not run CONFIG GET", "allow it: +config|get, or accept that: durability none")
	case slices.Index(levels, d.level) >= slices.Index(levels, opts.Require):
	case d.level == LevelNone:
		return bad("appendonly is no, so that what it acknowledges is lost when it ends in disorder", "set appendonly to yes and appendfsync to %s, or accept that: durability none", policy[opts.Require])
	default:
		return bad("appendfsync is "+policy[d.level]+", which promises less than durability "+string(opts.Require), "set appendfsync to %s, or accept that: durability %s", policy[opts.Require], d.level)
	}
	if opts.Replicas > 0 && d.minReplicas >= 0 && d.minReplicas < opts.Replicas {
		return bad(fmt.Sprintf("min-replicas-to-write is %d, so that a master which is cut off accepts changes that are lost", d.minReplicas), "set it to %d", opts.Replicas)
	}
	return nil
}

func (d durability) durability(l *link) Durability {
	return Durability{
		Server: l.target.String(), Version: d.version, Contracts: l.serves, Level: d.level,
		Replicas: l.opts.Replicas, MinReplicas: d.minReplicas, Cluster: l.target.kind == cluster,
	}
}

// readDurability asks for the settings. INFO tells whether there is an append-only file, CONFIG GET how often it is synced.
func readDurability(ctx context.Context, c *redis.Client, info map[string]string) durability {
	d := durability{version: info["redis_version"], level: LevelUnknown, minReplicas: -1}
	if info["aof_enabled"] == "0" {
		d.level = LevelNone
	}
	settings := map[string]string{}
	for _, name := range []string{"appendfsync", "min-replicas-to-write"} {
		got, err := c.ConfigGet(ctx, name).Result()
		if err != nil {
			return d // not allowed
		}
		settings[name] = got[name]
	}
	if n, err := strconv.Atoi(settings["min-replicas-to-write"]); err == nil {
		d.minReplicas = n
	}
	if d.level == LevelNone {
		return d
	}
	switch settings["appendfsync"] {
	case "always":
		d.level = LevelAlways
	case "everysec":
		d.level = LevelSecond
	case "no":
		d.level = LevelSystem
	}
	return d
}
