package spec

import "fmt"

const (
	// maxTexts limits the number of variables, arguments and labels that a container gets from its
	// service, and the number that it gets from its image.
	maxTexts = 8192
	// maxTextBytes limits their total size. A container may get this much from the service and from
	// the image, together half of the 2 MiB that Linux passes to a process.
	maxTextBytes = 512 << 10
)

// TooMuchText says which limit the variables, arguments and labels of a service or of an image
// exceed. It returns "" if they exceed none.
func TooMuchText(lists ...[]string) string {
	var count, size int
	for _, list := range lists {
		count += len(list)
		for _, text := range list {
			size += len(text)
		}
	}
	switch {
	case count > maxTexts:
		return fmt.Sprintf("%d variables, arguments and labels, at most %d are allowed", count, maxTexts)
	case size > maxTextBytes:
		return fmt.Sprintf("variables, arguments and labels of %d bytes, at most %d are allowed", size, maxTextBytes)
	}
	return ""
}
