CLASSES = ("normal epithelial", "cancer epithelial", "muscle", "immune leukocyte")
