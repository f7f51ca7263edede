package translate

// ChargeEach has a translation charge each instruction by itself.
func ChargeEach(o *Options) { o.each = true }

// Figures that tests hold ticks against.
const (
	CheckEvery   = checkEvery
	RegionCost   = regionCost
	ChunkEntries = chunkEntries
	GrowCost     = growCost
)
