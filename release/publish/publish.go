// SPDX-License-Identifier: Apache-2.0

// Package publish puts a build together in the steps that make's targets name: programs, image,
// push, release. Each step leaves its results in the output directory, bin/ by default:
//
//	linux-amd64/, linux-arm64/       the programs
//	image/oci/, image/oci.tar        the multi-architecture image, as an OCI layout and as an archive of it
//	release/<version>/               what a release consists of, with SHA256SUMS
//
// It knows the order of the steps; how each is done is in the packages that it calls.
package publish

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"spidernet.io/spiderpool/release/image"
	"spidernet.io/spiderpool/release/product"
	"spidernet.io/spiderpool/release/registry"
	"spidernet.io/spiderpool/release/source"
)

// Options are the settings of all steps.
type Options struct {
	// Root is the product's source, Out the directory of the results.
	Root, Out string
	// Version is empty for what git describes.
	Version   string
	Platforms []product.Platform
	// SourceURL is where the source is published; empty when it is not said.
	SourceURL string
	// Registry is needed to push.
	Registry string
	Client   registry.Client
	// AllowDirty lets a release be made of a tree that has changes.
	AllowDirty bool
	// SizeLimit of the image on each platform; 0 is product.SizeLimit.
	SizeLimit int64
	// Print gets the results, Say what is being done.
	Print io.Writer
	Say   *Progress
}

// Build compiles the programs for all platforms.
func Build(ctx context.Context, o Options) (source.Stamp, error) {
	s, err := source.Read(ctx, o.Root, o.Version)
	if err != nil {
		return s, err
	}
	for _, p := range o.Platforms {
		err := o.Say.Step(fmt.Sprintf("compiling %s for %s", s.Version, p), func() error {
			return product.Build(ctx, o.Root, p, s, o.programs(p))
		})
		if err != nil {
			return s, err
		}
		for _, program := range product.Programs {
			fmt.Fprintln(o.Print, filepath.Join(o.programs(p), program))
		}
	}
	return s, nil
}

// Image builds the programs and packs them as one multi-architecture image.
func Image(ctx context.Context, o Options) (v1.ImageIndex, source.Stamp, error) {
	s, err := Build(ctx, o)
	if err != nil {
		return nil, s, err
	}
	index, err := o.pack(s)
	if err != nil {
		return nil, s, err
	}
	sizes, err := image.Sizes(index)
	if err != nil {
		return nil, s, err
	}
	fmt.Fprint(o.Print, "\n"+image.Table(sizes))
	limit := o.SizeLimit
	if limit == 0 {
		limit = product.SizeLimit
	}
	if err := image.CheckSizes(sizes, limit); err != nil {
		return nil, s, err
	}
	dir := filepath.Join(o.Out, "image")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, s, fmt.Errorf("making a directory for the image: %w", err)
	}
	ref := product.ImageName + ":" + s.Tag()
	if err := image.WriteLayout(index, ref, filepath.Join(dir, "oci"), filepath.Join(dir, "oci.tar")); err != nil {
		return nil, s, err
	}
	digest, err := index.Digest()
	if err != nil {
		return nil, s, fmt.Errorf("reading the image's digest: %w", err)
	}
	fmt.Fprintf(o.Print, "\nimage   %s\ndigest  %s\nlayout  %s, %s\n", ref, digest, filepath.Join(dir, "oci"),
		filepath.Join(dir, "oci.tar"))
	return index, s, nil
}

func (o Options) pack(s source.Stamp) (v1.ImageIndex, error) {
	var images []v1.Image
	for _, p := range o.Platforms {
		err := o.Say.Step("packing the image of "+p.String(), func() error {
			layer, err := product.Layer(o.programs(p), product.Licenses(o.Root))
			if err != nil {
				return err
			}
			img, err := image.Build(layer, product.Config(p, s, o.SourceURL))
			images = append(images, img)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return image.Index(images, product.Labels(s, o.SourceURL))
}

// Push builds the image and pushes it, and returns its digest.
func Push(ctx context.Context, o Options) (v1.Hash, source.Stamp, error) {
	l, err := registry.Parse(o.Registry) // before minutes of compiling
	if err != nil {
		return v1.Hash{}, source.Stamp{}, err
	}
	index, s, err := Image(ctx, o)
	if err != nil {
		return v1.Hash{}, s, err
	}
	digest, err := o.pushIndex(ctx, l, s.Tag(), index)
	if err != nil {
		return v1.Hash{}, s, err
	}
	fmt.Fprintf(o.Print, "\npushed  %s:%s\n        %s@%s\n", l.Name(product.ImageName), s.Tag(),
		l.Name(product.ImageName), digest)
	return digest, s, nil
}

func (o Options) pushIndex(ctx context.Context, l registry.Location, tag string, index v1.ImageIndex) (v1.Hash, error) {
	var digest v1.Hash
	name := l.Name(product.ImageName)
	err := o.Say.Step("pushing "+name+":"+tag, func() (err error) {
		c := o.Client
		c.Progress = o.Say.Octets("pushing " + name)
		digest, err = c.PushIndex(ctx, name, tag, index)
		return err
	})
	return digest, err
}

func (o Options) programs(p product.Platform) string { return filepath.Join(o.Out, p.Dir()) }
