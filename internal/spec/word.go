package spec

import "fmt"

const (
	// maxWords bounds how many variables, arguments and labels a container takes from its service, and from its image.
	maxWords = 8192
	// maxWordBytes bounds their length together. A container may have both: half of the 2 MiB that Linux passes to a process.
	maxWordBytes = 512 << 10
)

// OverWords says which bound the words of a service or of an image are beyond, with the limit; "" when they are within both.
func OverWords(lists ...[]string) string {
	var count, size int
	for _, list := range lists {
		count += len(list)
		for _, word := range list {
			size += len(word)
		}
	}
	switch {
	case count > maxWords:
		return fmt.Sprintf("%d variables, arguments and labels, at most %d are allowed", count, maxWords)
	case size > maxWordBytes:
		return fmt.Sprintf("variables, arguments and labels of %d bytes, at most %d are allowed", size, maxWordBytes)
	}
	return ""
}
