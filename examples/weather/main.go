// Weather asks an upstream for several cities at once, through ordinary net/http. Its manifest says which hosts may be
// asked; the setting "upstream" says which one is.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/sdk"
)

// cities are latitude and longitude.
var cities = map[string][2]float64{
	"berlin": {52.52, 13.41}, "lima": {-12.05, -77.04}, "nairobi": {-1.29, 36.82}, "tokyo": {35.69, 139.69},
}

type report struct {
	City        string   `json:"city"`
	Temperature *float64 `json:"temperature_celsius,omitempty"`
	Error       string   `json:"error,omitempty"`
}

func init() { sdk.Handle(http.HandlerFunc(serve)) }

func main() {}

func serve(w http.ResponseWriter, r *http.Request) {
	names := []string{"berlin", "lima", "nairobi", "tokyo"}
	if q := r.URL.Query().Get("city"); q != "" {
		names = strings.Split(q, ",")
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	reports := make([]report, len(names))
	var asked sync.WaitGroup
	for i, name := range names {
		asked.Go(func() {
			reports[i] = report{City: name}
			t, err := temperature(ctx, name)
			if err != nil {
				reports[i].Error = err.Error()
				return
			}
			reports[i].Temperature = &t
		})
	}
	asked.Wait()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(reports); err != nil {
		sdk.Logger().Warn("answer", "err", err)
	}
}

func temperature(ctx context.Context, name string) (float64, error) {
	at, ok := cities[name]
	if !ok {
		return 0, fmt.Errorf("no such city")
	}
	upstream, ok := sdk.Config("upstream")
	if !ok {
		upstream = "https://api.open-meteo.com"
	}
	query := url.Values{"latitude": {fmt.Sprint(at[0])}, "longitude": {fmt.Sprint(at[1])}, "current": {"temperature_2m"}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, upstream+"/v1/forecast?"+query.Encode(), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("upstream: %s", resp.Status)
	}
	var answer struct {
		Current struct {
			Temperature float64 `json:"temperature_2m"`
		} `json:"current"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return 0, fmt.Errorf("upstream: %w", err)
	}
	return answer.Current.Temperature, nil
}
